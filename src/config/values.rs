//! Small parsers of the values that TOML has no type for: sizes, times, addresses, names.

use std::net::SocketAddr;
use std::time::Duration;

use toml::value::{Datetime, Offset};

use crate::client::Endpoint;
use crate::tail::StartAt;

/// `"64MiB"` and the like as bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let factor: Option<u64> = match unit {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    factor
        .and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor))
        .ok_or_else(|| {
            format!("\"{text}\" is no size; write a whole number and B, KiB, MiB, GiB or TiB, such as \"64MiB\"")
        })
}

/// `"30s"` and the like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text);
    let milliseconds: Option<u64> = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    milliseconds
        .and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!(
                "\"{text}\" is no time; write a whole number and ms, s, m, h or d, such as \"30s\""
            )
        })
}

/// `"host:port"` of something to connect to.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = || format!("\"{text}\" is no address; write \"host:port\"");
    let endpoint: Endpoint = text.parse().map_err(|_| wrong())?;
    if endpoint.host.contains(['/', ',', '@']) {
        return Err(wrong());
    }
    Ok(endpoint)
}

/// `"address:port"` to listen on.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("\"{text}\" is nothing to listen on; write \"IP:port\", such as \"0.0.0.0:9192\"")
    })
}

/// Where mirrors begin: `earliest`, `latest` or an RFC 3339 time.
pub fn start(text: &str) -> Result<StartAt, String> {
    match text {
        "earliest" => Ok(StartAt::Earliest),
        "latest" => Ok(StartAt::Latest),
        time => rfc3339_milliseconds(time).map(StartAt::Time).ok_or_else(|| {
            format!(
                "\"{time}\" is no start; write \"earliest\", \"latest\" or a time such as \"2026-01-31T12:00:00Z\""
            )
        }),
    }
}

/// A name for people, addresses and metrics.
pub fn link_name(text: &str) -> Result<(), String> {
    const LONGEST: usize = 100;
    if text.is_empty() || text.len() > LONGEST || !text.chars().all(is_topic_character) {
        return Err(format!(
            "\"{text}\" cannot be a link's name; use 1 to {LONGEST} letters, digits, '.', '_' or '-'"
        ));
    }
    Ok(())
}

/// What may stand before a topic's name.
pub fn rename_prefix(text: &str) -> Result<(), String> {
    // Topic names have at most 249 characters; a prefix that leaves no room mirrors nothing.
    const LONGEST: usize = 200;
    if text.len() > LONGEST || !text.chars().all(is_topic_character) {
        return Err(format!(
            "\"{text}\" cannot begin a topic's name; use up to {LONGEST} letters, digits, '.', '_' or '-'"
        ));
    }
    if text.starts_with("__") {
        return Err("names that begin with __ are Kafka's own; choose another prefix".to_owned());
    }
    Ok(())
}

fn is_topic_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start_matches(' '))
}

fn rfc3339_milliseconds(text: &str) -> Option<i64> {
    let parsed: Datetime = text.parse().ok()?;
    let (date, time) = (parsed.date?, parsed.time?);
    let offset_minutes = match parsed.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = days * 1440 + i64::from(time.hour) * 60 + i64::from(time.minute) - offset_minutes;
    let milliseconds = i64::from(time.nanosecond.unwrap_or(0) / 1_000_000);
    Some((minutes * 60 + i64::from(time.second.unwrap_or(0))) * 1000 + milliseconds)
}

/// Days of the Gregorian calendar; the year is taken to begin in March, so that the leap day is
/// the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // 719468 days lie between 1 March of year 0 and 1 January 1970.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("0B").unwrap(), 0);
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("2 GiB").unwrap(), 2 << 30);
        for wrong in ["", "64", "MiB", "64MB", "-1B", "1.5GiB", "99999999999TiB"] {
            assert!(size(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        for wrong in ["", "30", "s", "5 minutes", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints_have_a_host_and_a_port() {
        assert_eq!(endpoint("d1:9092").unwrap().to_string(), "d1:9092");
        for wrong in ["", "d1", ":9092", "d1:", "d1:0", "d1:99999", "http://d1:1"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_start_may_be_a_time() {
        assert_eq!(start("latest").unwrap(), StartAt::Latest);
        let time = |text| match start(text) {
            Ok(StartAt::Time(milliseconds)) => milliseconds,
            other => panic!("{other:?}"),
        };
        assert_eq!(time("1970-01-01T00:00:00Z"), 0);
        assert_eq!(time("2000-02-29T12:00:00Z"), 951_825_600_000);
        assert_eq!(time("2026-01-31T12:00:00.250+02:00"), 1_769_853_600_250);
        for wrong in ["now", "2026-01-31", "2026-01-31T12:00:00", "2026-13-01T00:00:00Z"] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_are_legal_topic_names() {
        assert!(rename_prefix("east.").is_ok());
        assert!(rename_prefix("").is_ok());
        assert!(rename_prefix("__x").is_err());
        assert!(rename_prefix("a b").is_err());
    }
}
