//! The file as users write it, and what they are told when it is wrong.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::mirror::decision::Policies;
use crate::tail::StartAt;

const GOOD: &str = r#"
[daemon]
broker_id = 9001
[destination]
bootstrap_servers = ["d1:9092", "d2:9092"]
[destination.listeners.PLAINTEXT]
bind = "0.0.0.0:9192"
advertise = "mirror1:9192"
[[link]]
name = "east"
[link.source]
bootstrap_servers = ["s1:9092"]
[link.topics]
include = ["orders", "payments.*"]
"#;

fn parse_in(directory: &Path, text: &str) -> Result<Config, String> {
    let environment = |name: &str| (name == "REGION").then(|| "eu".to_owned());
    Config::parse(text, directory, &environment).map_err(|problems| {
        let lines: Vec<_> =
            problems.iter().map(|problem| format!("{}: {problem}", problem.line)).collect();
        lines.join("\n")
    })
}

fn parse(text: &str) -> Result<Config, String> {
    parse_in(Path::new(""), text)
}

/// The complaint about the good file with one piece replaced.
fn complaint(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    parse(&GOOD.replacen(old, new, 1)).unwrap_err()
}

#[test]
fn defaults_are_those_of_the_interface() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.daemon.broker_id, BrokerId(9001));
    assert_eq!(config.daemon.http.to_string(), "127.0.0.1:8900");
    assert_eq!(config.daemon.memory_bytes, 512 << 20);
    assert_eq!(config.daemon.state_dir, None);
    assert_eq!(config.destination.bootstrap[1].to_string(), "d2:9092");
    assert_eq!(config.destination.controllers, []);
    assert_eq!(config.destination.listeners[0].name, "PLAINTEXT");
    let link = &config.links[0];
    assert_eq!(link.name, "east".into());
    assert_eq!(link.source.connections_per_broker, None);
    assert_eq!(link.topics.start, StartAt::Earliest);
    assert_eq!(link.topics.replication_factor, 0);
    assert_eq!(link.topics.rename_prefix, "");
    assert_eq!(link.configs_interval, Duration::from_secs(5));
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    assert_eq!(
        complaint("include =", "inclde ="),
        "14: link.topics.inclde: unknown key; did you mean `include`?"
    );
    assert_eq!(
        complaint("[link.topics]", "[link.topcis]"),
        "13: link.topcis: unknown key; did you mean `topics`?"
    );
    let complaint = complaint("bind =", "bnid =");
    assert!(complaint.contains("destination.listeners.PLAINTEXT.bnid"), "{complaint}");
}

#[test]
fn with_several_links_the_place_names_the_link() {
    let second = "[[link]]\nname = \"west\"\n[link.sourc]\n";
    let complaint = parse(&format!("{GOOD}{second}")).unwrap_err();
    assert!(complaint.contains("link \"west\".sourc: unknown key"), "{complaint}");
}

#[test]
fn values_are_checked_where_they_stand() {
    let cases = [
        ("9001", "-1", "daemon.broker_id: is no broker id"),
        ("9001", "\"x\"", "daemon.broker_id: is of type string; write a whole number"),
        ("broker_id = 9001", "", "daemon: `broker_id` is missing"),
        ("\"d1:9092\"", "\"d1\"", "5: destination.bootstrap_servers: \"d1\" is no address"),
        ("[\"s1:9092\"]", "[]", "link.source: `bootstrap_servers` is empty"),
        ("0.0.0.0:9192", "mirror1:9192", "bind: \"mirror1:9192\" is nothing to listen on"),
        ("mirror1:9192", ":9192", "advertise: \":9192\" is no address"),
        ("mirror1:9192", "0.0.0.0:9192", "cannot be connected to"),
        ("\"orders\"", "\"/(/\"", "14: link.topics.include: pattern /(/ is no usable"),
        ("\"east\"", "\"a/b\"", "link.name: \"a/b\" cannot be a link's name"),
        (
            "broker_id = 9001",
            "broker_id = 9001\nmemory = \"1MB\"",
            "daemon.memory: \"1MB\" is no size",
        ),
        ("broker_id = 9001", "broker_id = 9001\nhttp = \"0.0.0.0:8900\"", "requires a token"),
    ];
    for (old, new, expected) in cases {
        let complaint = complaint(old, new);
        assert!(complaint.contains(expected), "{complaint}");
    }
}

#[test]
fn relations_are_checked() {
    let second = |name: &str, server: &str| {
        format!("{GOOD}[[link]]\nname = \"{name}\"\nsource.bootstrap_servers = [\"{server}\"]\n")
    };
    let same_name = parse(&second("east", "s2:9092")).unwrap_err();
    assert!(same_name.contains("another link is named \"east\" too"), "{same_name}");
    let same_cluster = parse(&second("west", "d1:9092")).unwrap_err();
    assert!(same_cluster.contains("cannot mirror itself"), "{same_cluster}");
    let listener = "[destination.listeners.X]\nbind = \"127.0.0.1:9192\"\nadvertise = \"m:1\"\n";
    let clash = parse(&format!("{GOOD}{listener}")).unwrap_err();
    assert!(clash.contains("shares its port with listener PLAINTEXT"), "{clash}");
    let ourselves = complaint("\"d1:9092\"", "\"mirror1:9192\"");
    assert!(ourselves.contains("name only real brokers"), "{ourselves}");
}

#[test]
fn a_truncation_is_followed_only_where_the_file_says_so() {
    assert_eq!(parse(GOOD).unwrap().links[0].topics.policies, Policies::default());
    let text = GOOD.replacen("include =", "on_divergence = \"truncate\"\ninclude =", 1);
    assert!(parse(&text).unwrap().links[0].topics.policies.follows_truncations);
    let policy = complaint("include =", "on_divergence = \"cut\"\ninclude =");
    assert!(policy.contains("write \"stop\" or \"truncate\""), "{policy}");
}

#[test]
fn two_links_do_not_ask_for_the_same_mirror() {
    let second = |topics: &str| {
        let source =
            "[[link]]\nname = \"west\"\n[link.source]\nbootstrap_servers = [\"w1:9092\"]\n";
        parse(&format!("{GOOD}\n{source}[link.topics]\n{topics}\n"))
    };
    let first = parse(GOOD).unwrap().links[0].topics.include.join(" ");
    let clash = second("include = [\"*\"]").unwrap_err();
    assert!(clash.contains("and so would link \"east\""), "{clash}; {first}");
    second("include = [\"*\"]\nrename_prefix = \"west.\"").unwrap();
    second("include = [\"nothing-of-the-other\"]").unwrap();
}

#[test]
fn what_is_not_there_yet_is_refused() {
    let cases = [
        ("[link.limits]\nbytes_per_second = \"1MiB\"", "limits are not yet supported"),
        ("[link.configs]\nexclude = [\"x\"]", "not yet supported"),
        ("[link.source.tls]\nca_file = \"x\"", "TLS and SASL come later"),
    ];
    for (table, expected) in cases {
        let complaint = parse(&format!("{GOOD}{table}\n")).unwrap_err();
        assert!(complaint.contains(expected), "{complaint}");
    }
    let policy = complaint("include =", "on_gap = \"go\"\ninclude =");
    assert!(policy.contains("\"go\" is no policy; write \"stop\" or \"continue\""), "{policy}");
    let harmless = "[link.groups]\nenabled = false\n[link.limits]\nbytes_per_second = \"0B\"\n";
    assert_eq!(parse(&format!("{GOOD}{harmless}")).unwrap().notices, []);
}

#[test]
fn what_is_harmlessly_missing_is_noticed() {
    for table in ["[link.groups]\nenabled = true", "[link.groups]\ninterval = \"1s\""] {
        let notices = parse(&format!("{GOOD}{table}\n")).unwrap().notices;
        assert!(notices[0].to_string().contains("group sync is not yet supported"), "{notices:?}");
    }
}

#[test]
fn strings_may_come_from_the_environment_or_a_file() {
    let config = parse(&GOOD.replace("\"east\"", "\"${REGION}-1\"")).unwrap();
    assert_eq!(config.links[0].name, "eu-1".into());
    let unset = complaint("\"east\"", "\"${NONE}\"");
    assert!(unset.contains("environment variable NONE is not set"), "{unset}");

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("name"), "from-file\n").unwrap();
    let text = GOOD.replace("name = \"east\"", "name_file = \"name\"");
    let config = parse_in(directory.path(), &text).unwrap();
    assert_eq!(config.links[0].name, "from-file".into());
    let missing = parse(&text.replace("\"name\"", "\"nowhere\"")).unwrap_err();
    assert!(missing.contains("link.name_file: read nowhere"), "{missing}");
    let both = complaint("name = \"east\"", "name = \"a\"\nname_file = \"b\"");
    assert!(both.contains("both name and name_file are set"), "{both}");
}

#[test]
fn a_start_may_be_a_toml_time_and_connections_a_number() {
    let text = GOOD
        .replace("include =", "start = 1970-01-01T00:00:01Z\ninclude =")
        .replace("[\"s1:9092\"]", "[\"s1:9092\"]\nconnections_per_broker = 4");
    let config = parse(&text).unwrap();
    assert_eq!(config.links[0].topics.start, StartAt::Time(1000));
    assert_eq!(config.links[0].source.connections_per_broker, Some(4));
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    let complaint = complaint("[link.topics]", "[link.topics");
    assert!(complaint.starts_with("13: is not TOML:"), "{complaint}");
}

#[test]
fn the_file_of_the_containers_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/lockstep.toml");
    let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.links.len(), 1);
}

#[test]
fn the_example_files_are_good_and_the_full_one_shows_the_defaults() {
    let config = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
        Config::load(&path).unwrap_or_else(|error| panic!("{error}"))
    };
    let (full, minimal) = (config("lockstep.toml"), config("minimal.toml"));
    assert_eq!(full.daemon, minimal.daemon);
    let (full, minimal) = (&full.links[0], &minimal.links[0]);
    assert_eq!(full.configs_interval, minimal.configs_interval);
    assert_eq!(full.source.connections_per_broker, minimal.source.connections_per_broker);
    assert_eq!(full.topics.start, minimal.topics.start);
    assert_eq!(full.topics.replication_factor, minimal.topics.replication_factor);
    assert_eq!(full.topics.rename_prefix, minimal.topics.rename_prefix);
}
