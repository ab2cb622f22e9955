//! The daemon's HTTP API as a client sees it.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Exit, Failure};
use crate::admin::ErrorBody;

/// A daemon on this machine answers at once; longer than this is a fault to report.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A daemon to ask.
pub struct Api {
    agent: ureq::Agent,
    url: String,
}

impl Api {
    /// The daemon at this URL; nothing is sent yet.
    pub fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build();
        Self { agent: config.into(), url: url.trim_end_matches('/').to_owned() }
    }

    /// The answer at a path.
    pub fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(self.agent.get(format!("{}{path}", self.url)).call())
    }

    /// The answer to a command.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.read(self.agent.post(format!("{}{path}", self.url)).send_json(body))
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = answer.body_mut().read_to_vec().map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.not_ours(&error));
        }
        Err(self.refusal(status.as_u16(), &body))
    }

    /// Sends something to a path; the answer has no content that counts.
    pub fn send<B: serde::Serialize>(&self, path: &str, body: &B) -> Result<(), Failure> {
        let mut answer = self
            .agent
            .post(format!("{}{path}", self.url))
            .send_json(body)
            .map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = answer.body_mut().read_to_vec().map_err(|error| self.unreachable(&error))?;
        Err(self.refusal(status.as_u16(), &body))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::new(Exit::Unreachable, format!("reach the daemon at {}: {error}", self.url))
            .advise("start it with `lockstep run`, or name its address with --url")
    }

    fn refusal(&self, status: u16, body: &[u8]) -> Failure {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { error }) => {
                let exit = match status {
                    404 => Exit::NotSo,
                    503 => Exit::Unreachable,
                    _ => Exit::Refused,
                };
                Failure::new(exit, format!("{} ({})", error.message, error.code))
            }
            Err(error) => self.not_ours(&error),
        }
    }

    fn not_ours(&self, error: &serde_json::Error) -> Failure {
        let cause = format!("understand the answer of {}: {error}", self.url);
        Failure::new(Exit::Unreachable, cause)
            .advise("is another program listening there, or a daemon of another version?")
    }
}
