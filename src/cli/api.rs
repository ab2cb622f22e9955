//! The daemon's HTTP API as a client sees it.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Exit, Failure};
use crate::admin::ErrorBody;

/// A daemon on this machine answers at once; longer than this is a fault to report.
const TIMEOUT: Duration = Duration::from_secs(10);

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
        let unreachable = |error: ureq::Error| {
            Failure::new(Exit::Unreachable, format!("reach the daemon at {}: {error}", self.url))
                .advise("start it with `lockstep run`, or name its address with --url")
        };
        let mut answer =
            self.agent.get(format!("{}{path}", self.url)).call().map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().read_to_vec().map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.not_ours(&error));
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => {
                let exit = if status.as_u16() == 404 { Exit::NotSo } else { Exit::Refused };
                Err(Failure::new(exit, format!("{} ({})", error.message, error.code)))
            }
            Err(error) => Err(self.not_ours(&error)),
        }
    }

    fn not_ours(&self, error: &serde_json::Error) -> Failure {
        let cause = format!("understand the answer of {}: {error}", self.url);
        Failure::new(Exit::Unreachable, cause)
            .advise("is another program listening there, or a daemon of another version?")
    }
}
