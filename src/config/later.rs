//! What the interface names and this version cannot do yet. A value that asks for such a thing is
//! refused where going on without it could hurt, and noticed where the mirror is right without it:
//! a setting that is silently without effect costs more than one that is missing. Each function goes
//! away with the feature that it stands in for.

use super::problem::Placed;
use super::section::Section;
use super::values;

/// TLS and SASL, of a cluster or a listener.
pub fn refuse_security(section: &Section<'_>) {
    for key in ["tls", "sasl"] {
        if let Some(entry) = section.presence(key) {
            let text = "TLS and SASL come later; plaintext only: remove it";
            section.report(entry.problem(text));
        }
    }
}

/// What happens at a gap or a divergence.
pub fn refuse_policies(section: &Section<'_>) {
    for (key, other) in [("on_gap", "continue"), ("on_divergence", "truncate")] {
        let Some(policy) = section.string(key) else {
            continue;
        };
        let value = policy.value.as_str();
        if value != "stop" && value != other {
            let text = format!("\"{value}\" is no policy; write \"stop\" or \"{other}\"");
            section.report(policy.problem(text));
        }
    }
}

/// Which topic configurations are followed.
pub fn refuse_config_lists(section: &Section<'_>) {
    for key in ["include", "exclude"] {
        let items = section.strings(key);
        if let Some(first) = items.iter().flatten().next() {
            let text = "choosing topic configurations is not yet supported; remove it";
            section.report(first.problem(text));
        }
    }
}

/// Consumer groups.
pub fn notice_groups(section: &Section<'_>) {
    let enabled = section.boolean("enabled");
    if let Some(interval) = section.string("interval")
        && let Err(text) = values::duration(&interval.value)
    {
        section.report(interval.problem(text));
    }
    section.strings("include");
    section.strings("exclude");
    section.refuse_others();
    let asked_for: Option<Placed<()>> = match enabled {
        Some(enabled) => enabled.value.then(|| enabled.with(())),
        // The interface's default is on: a table that does not say otherwise asks for it.
        None => section.is_present().then(|| section.here()),
    };
    if let Some(place) = asked_for {
        let text = "group sync is not yet supported: committed offsets are not copied; set \
                    enabled = false to say that this is meant";
        section.notice(place.problem(text));
    }
}

/// Throughput limits.
pub fn refuse_limits(section: &Section<'_>) {
    if let Some(limit) = section.string("bytes_per_second") {
        match values::size(&limit.value) {
            Ok(0) => {}
            Ok(_) => {
                let text = "limits are not yet supported; write \"0B\" (no limit) or remove it";
                section.report(limit.problem(text));
            }
            Err(text) => section.report(limit.problem(text)),
        }
    }
    section.refuse_others();
}
