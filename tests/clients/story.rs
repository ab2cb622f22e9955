//! The one story that all judges look at: clusters are dear.

use super::applications::Applications;
use super::grouping::{self, Playing};
use super::programs::{all, wanted};
use super::stage::{Stage, destination_asked_for};
use super::tools::{self, Tools};
use super::{producing, reading};
use crate::support::scenario;

/// Releases of the tools: the newest, and in the long form the last before 4.0.
const RELEASES: [&str; 2] = ["4.3.1", "3.9.1"];

#[test]
fn clients_and_tools_do_not_notice_that_the_leader_has_no_disks() {
    scenario("clients", |workspace| {
        let releases = if all() { &RELEASES[..] } else { &RELEASES[..1] };
        let mut tools = Vec::new();
        let mut stage = Stage::start(workspace, |destination| {
            // In older releases a command meets brokers that have not heard of the one before it.
            if wanted("tools") && destination_asked_for().is_none() {
                tools::prepare(destination)?;
                for version in releases {
                    tools.push(Tools::before(version, destination, workspace)?);
                }
            }
            Ok(())
        })?;
        // First: they list what there is.
        for tools in tools {
            tools.judge(&stage)?;
        }
        let groups = wanted("grouping").then(|| grouping::together(&stage, workspace.path()));
        let groups = groups.transpose()?;
        if wanted("producing") {
            producing::judge(&stage)?;
        }
        groups.map_or(Ok(()), Playing::judge)?;
        let applications = all() && wanted("applications");
        let applications = applications.then(|| Applications::start(&stage, workspace));
        let applications = applications.transpose()?;
        if wanted("reading") {
            reading::judge(&mut stage)?;
        } else if wanted("applications") || wanted("grouping") && !all() {
            stage.lead_anew()?;
        }
        applications.map_or(Ok(()), |applications| applications.judge(&stage))?;
        if wanted("grouping") {
            if all() {
                grouping::over_death(&mut stage, workspace.path())?;
            }
            grouping::resume(&stage)?;
            if all() {
                grouping::at_the_end(&mut stage)?;
            }
        }
        Ok(())
    });
}
