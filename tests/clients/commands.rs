//! The commands that judge, and what each has to answer.

/// What a command has to do with the seat registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The same exit code and lines as before there was a seat.
    Same,
    /// The same exit code, and lines that differ in numbers alone.
    SameShape,
    /// What it does at the source.
    AsSource,
    /// This exit code, and these words among what it says.
    Says(i32, &'static [&'static str]),
}

/// One command. A server's address comes before its words, or where `SERVER` stands; `FILES` stands for the
/// directory of the plans, `BROKERS` for the ids of the real brokers, `REPLICA` for a broker that holds
/// `payments-0`.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    pub name: &'static str,
    /// Main class; the first that there is of several.
    pub class: &'static str,
    pub words: &'static str,
    /// Standard input.
    pub input: &'static str,
    /// Whether releases before 4.0 have it otherwise or not at all.
    pub since_4: bool,
    /// Whether it is left to the long form.
    pub long: bool,
    pub expect: Expect,
}

impl Tool {
    const fn new(
        name: &'static str,
        class: &'static str,
        words: &'static str,
        expect: Expect,
    ) -> Self {
        Self { name, class, words, input: "", since_4: false, long: false, expect }
    }

    const fn since_4(self) -> Self {
        Self { since_4: true, ..self }
    }

    const fn long(self) -> Self {
        Self { long: true, ..self }
    }

    const fn input(self, input: &'static str) -> Self {
        Self { input, ..self }
    }
}

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const GROUP_KINDS: &str = "org.apache.kafka.tools.GroupsCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const DIRECTORIES: &str = "org.apache.kafka.tools.LogDirsCommand";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECTION: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
const CLUSTER: &str = "org.apache.kafka.tools.ClusterTool";
const QUORUM: &str = "org.apache.kafka.tools.MetadataQuorumCommand";
const API_VERSIONS: &str =
    "org.apache.kafka.tools.BrokerApiVersionsCommand|kafka.admin.BrokerApiVersionsCommand";
const FEATURES: &str = "org.apache.kafka.tools.FeatureCommand|kafka.admin.FeatureCommand";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer|kafka.tools.ConsoleProducer";
const SHARE_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ShareGroupCommand";

/// All commands, in the order in which they are run.
pub const fn all_tools() -> &'static [Tool] {
    TOOLS
}

const TOOLS: &[Tool] = &[
    // Topics.
    Tool::new("topics list", TOPICS, "--list", Expect::Same),
    Tool::new("topics describe", TOPICS, "--describe --topic own", Expect::Same),
    Tool::new("topics under-replicated", TOPICS, "--describe --under-replicated-partitions", Expect::Same),
    Tool::new("topics under min ISR", TOPICS, "--describe --under-min-isr-partitions", Expect::Same),
    Tool::new("topics unavailable", TOPICS, "--describe --unavailable-partitions", Expect::Same),
    Tool::new("topics at min ISR", TOPICS, "--describe --at-min-isr-partitions", Expect::Same),
    Tool::new("topics create", TOPICS, "--create --topic made --partitions 3 --replication-factor 2", Expect::Same),
    Tool::new("topics alter", TOPICS, "--alter --topic made --partitions 4", Expect::Same),
    Tool::new("topics delete", TOPICS, "--delete --topic made", Expect::Same),
    Tool::new("mirror describe", TOPICS, "--describe --topic codecs", Expect::Says(0, &["Leader: 9001", "max.message.bytes=0"])),
    Tool::new("mirror alter", TOPICS, "--alter --topic codecs --partitions 2", Expect::Says(1, &["Topic already has 2 partition(s)."])),
    // Configurations.
    Tool::new("configs of all brokers", CONFIGS, "--describe --entity-type brokers --all", Expect::Same),
    Tool::new("configs of a broker", CONFIGS, "--describe --entity-type brokers --entity-name 1 --all", Expect::Same),
    Tool::new("configs of the seat", CONFIGS, "--describe --entity-type brokers --entity-name 9001 --all", Expect::Says(0, &["All configs for broker 9001 are:", "node.id=9001", "lockstep.daemon.broker_id=9001"])),
    Tool::new("changed configs of the seat", CONFIGS, "--describe --entity-type brokers --entity-name 9001", Expect::Says(0, &["Dynamic configs for broker 9001 are:"])),
    Tool::new("default configs", CONFIGS, "--alter --entity-type brokers --entity-default --add-config log.cleaner.threads=1", Expect::Same),
    Tool::new("default configs described", CONFIGS, "--describe --entity-type brokers --entity-default", Expect::Same),
    Tool::new("default configs deleted", CONFIGS, "--alter --entity-type brokers --entity-default --delete-config log.cleaner.threads", Expect::Same),
    Tool::new("throttles of a broker", CONFIGS, "--alter --entity-type brokers --entity-name 1 --add-config leader.replication.throttled.rate=1000000", Expect::Same),
    Tool::new("throttles of a broker deleted", CONFIGS, "--alter --entity-type brokers --entity-name 1 --delete-config leader.replication.throttled.rate", Expect::Same),
    Tool::new("throttles of the seat", CONFIGS, "--alter --entity-type brokers --entity-name 9001 --add-config leader.replication.throttled.rate=1000000,follower.replication.throttled.rate=1000000", Expect::Says(0, &["Completed updating config for broker 9001."])),
    Tool::new("throttles of the seat deleted", CONFIGS, "--alter --entity-type brokers --entity-name 9001 --delete-config leader.replication.throttled.rate,follower.replication.throttled.rate", Expect::Says(0, &["Completed updating config for broker 9001."])).since_4(),
    Tool::new("settings of the seat", CONFIGS, "--alter --entity-type brokers --entity-name 9001 --add-config log.cleaner.threads=2", Expect::Says(1, &["PolicyViolationException: log.cleaner.threads is not a setting of lockstep: use its configuration file"])),
    Tool::new("loggers of a broker", CONFIGS, "--describe --entity-type broker-loggers --entity-name 1", Expect::Says(0, &["Dynamic configs for broker-logger 1 are:", "kafka.cluster.Partition=INFO"])),
    Tool::new("loggers of a broker set", CONFIGS, "--alter --entity-type broker-loggers --entity-name 1 --add-config kafka.cluster.Partition=INFO", Expect::Same),
    Tool::new("loggers of the seat", CONFIGS, "--describe --entity-type broker-loggers --entity-name 9001", Expect::Says(0, &["Dynamic configs for broker-logger 9001 are:"])),
    Tool::new("loggers of the seat set", CONFIGS, "--alter --entity-type broker-loggers --entity-name 9001 --add-config kafka.cluster.Partition=DEBUG", Expect::Says(1, &["Invalid broker logger(s): kafka.cluster.Partition"])),
    Tool::new("configs of a mirror", CONFIGS, "--describe --entity-type topics --entity-name codecs", Expect::Says(0, &["max.message.bytes=0"])),
    // Groups.
    Tool::new("groups list", GROUPS, "--list", Expect::Same),
    Tool::new("groups states", GROUPS, "--list --state", Expect::Same),
    Tool::new("groups describe", GROUPS, "--describe --group own-group", Expect::Same),
    Tool::new("groups describe state", GROUPS, "--describe --group own-group --state", Expect::SameShape),
    Tool::new("groups describe members", GROUPS, "--describe --group own-group --members", Expect::Same),
    Tool::new("groups describe all", GROUPS, "--describe --all-groups", Expect::Same),
    Tool::new("groups reset", GROUPS, "--reset-offsets --group own-group --topic own --to-earliest --execute", Expect::Same),
    Tool::new("groups reset to the end", GROUPS, "--reset-offsets --group own-group --topic own --to-latest --execute", Expect::Same),
    Tool::new("mirrored group describe", GROUPS, "--describe --group mirrored", Expect::AsSource),
    Tool::new("mirrored group reset to earliest", GROUPS, "--reset-offsets --group mirrored --topic codecs --to-earliest --execute", Expect::AsSource),
    Tool::new("mirrored group reset to latest", GROUPS, "--reset-offsets --group mirrored --topic codecs --to-latest --execute", Expect::AsSource),
    Tool::new("mirrored group reset to a date", GROUPS, "--reset-offsets --group mirrored --topic codecs --to-datetime 2026-01-01T00:00:00.000 --execute", Expect::AsSource),
    Tool::new("mirrored group reset to a duration", GROUPS, "--reset-offsets --group mirrored --topic codecs --by-duration PT1H --execute", Expect::AsSource),
    Tool::new("mirrored group reset to an offset", GROUPS, "--reset-offsets --group mirrored --topic codecs --to-offset 5 --execute", Expect::AsSource),
    Tool::new("mirrored group reset to a shift", GROUPS, "--reset-offsets --group mirrored --topic codecs --shift-by -2 --execute", Expect::AsSource),
    Tool::new("mirrored group reset to current", GROUPS, "--reset-offsets --group mirrored --topic codecs --to-current --execute", Expect::AsSource),
    Tool::new("mirrored group offsets deleted", GROUPS, "--delete-offsets --group mirrored --topic codecs", Expect::AsSource),
    Tool::new("mirrored group deleted", GROUPS, "--delete --group mirrored", Expect::AsSource),
    Tool::new("all kinds of groups", GROUP_KINDS, "--list", Expect::Same).since_4(),
    // Offsets.
    Tool::new("offsets of own: latest", OFFSETS, "--topic own --time -1", Expect::Same),
    Tool::new("offsets of codecs: latest", OFFSETS, "--topic codecs --time -1", Expect::AsSource),
    Tool::new("offsets of payments: latest", OFFSETS, "--topic payments --time -1", Expect::AsSource),
    Tool::new("offsets of table: latest", OFFSETS, "--topic table --time -1", Expect::AsSource),
    Tool::new("offsets of own: earliest", OFFSETS, "--topic own --time -2", Expect::Same),
    Tool::new("offsets of codecs: earliest", OFFSETS, "--topic codecs --time -2", Expect::AsSource),
    Tool::new("offsets of payments: earliest", OFFSETS, "--topic payments --time -2", Expect::AsSource),
    Tool::new("offsets of table: earliest", OFFSETS, "--topic table --time -2", Expect::AsSource),
    Tool::new("offsets of own: greatest timestamp", OFFSETS, "--topic own --time -3", Expect::Same),
    Tool::new("offsets of codecs: greatest timestamp", OFFSETS, "--topic codecs --time -3", Expect::AsSource),
    Tool::new("offsets of payments: greatest timestamp", OFFSETS, "--topic payments --time -3", Expect::AsSource),
    Tool::new("offsets of table: greatest timestamp", OFFSETS, "--topic table --time -3", Expect::AsSource),
    Tool::new("offsets of own: earliest local", OFFSETS, "--topic own --time -4", Expect::Same),
    Tool::new("offsets of codecs: earliest local", OFFSETS, "--topic codecs --time -4", Expect::AsSource),
    Tool::new("offsets of payments: earliest local", OFFSETS, "--topic payments --time -4", Expect::AsSource),
    Tool::new("offsets of table: earliest local", OFFSETS, "--topic table --time -4", Expect::AsSource),
    Tool::new("offsets of own: latest tiered", OFFSETS, "--topic own --time -5", Expect::Same),
    Tool::new("offsets of codecs: latest tiered", OFFSETS, "--topic codecs --time -5", Expect::AsSource),
    Tool::new("offsets of payments: latest tiered", OFFSETS, "--topic payments --time -5", Expect::AsSource),
    Tool::new("offsets of table: latest tiered", OFFSETS, "--topic table --time -5", Expect::AsSource),
    Tool::new("offsets of own: earliest to upload", OFFSETS, "--topic own --time -6", Expect::Same).since_4(),
    Tool::new("offsets of codecs: earliest to upload", OFFSETS, "--topic codecs --time -6", Expect::AsSource).since_4(),
    Tool::new("offsets of payments: earliest to upload", OFFSETS, "--topic payments --time -6", Expect::AsSource).since_4(),
    Tool::new("offsets of own: a time before all", OFFSETS, "--topic own --time 1700000000000", Expect::Same),
    Tool::new("offsets of codecs: a time before all", OFFSETS, "--topic codecs --time 1700000000000", Expect::AsSource),
    Tool::new("offsets of payments: a time before all", OFFSETS, "--topic payments --time 1700000000000", Expect::AsSource),
    Tool::new("offsets of table: a time before all", OFFSETS, "--topic table --time 1700000000000", Expect::AsSource),
    Tool::new("offsets of own: a time after all", OFFSETS, "--topic own --time 9999999999999", Expect::Same),
    Tool::new("offsets of codecs: a time after all", OFFSETS, "--topic codecs --time 9999999999999", Expect::AsSource),
    Tool::new("offsets of payments: a time after all", OFFSETS, "--topic payments --time 9999999999999", Expect::AsSource),
    Tool::new("offsets of table: a time after all", OFFSETS, "--topic table --time 9999999999999", Expect::AsSource),
    Tool::new("offsets of all", OFFSETS, "--topic-partitions own:0-2", Expect::Same),
    // Log directories and transactions.
    Tool::new("directories", DIRECTORIES, "--describe", Expect::Says(0, &["Received log directory information from brokers BROKERS,9001", "\"broker\":9001,\"logDirs\":[{\"partitions\":[],\"error\":null,\"logDir\":\"/lockstep\"}]"])),
    Tool::new("directories of a broker", DIRECTORIES, "--describe --broker-list 1 --topic-list own", Expect::SameShape),
    Tool::new("directories of the seat", DIRECTORIES, "--describe --broker-list 9001", Expect::Says(0, &["Received log directory information from brokers 9001"])),
    Tool::new("transactions list", TRANSACTIONS, "list", Expect::Same),
    Tool::new("transactions describe", TRANSACTIONS, "describe --transactional-id own-0", Expect::SameShape),
    Tool::new("transactions hanging", TRANSACTIONS, "find-hanging --broker-id 1", Expect::Same),
    Tool::new("transactions hanging at the seat", TRANSACTIONS, "find-hanging --broker-id 9001", Expect::Says(0, &["StartOffset"])),
    Tool::new("transactions hanging in a mirror", TRANSACTIONS, "find-hanging --topic payments", Expect::AsSource),
    Tool::new("producers of own", TRANSACTIONS, "describe-producers --topic own --partition 0", Expect::Same),
    Tool::new("producers of a mirror", TRANSACTIONS, "describe-producers --topic payments --partition 0", Expect::AsSource),
    Tool::new("producers of a mirror at a replica", TRANSACTIONS, "describe-producers --topic payments --partition 0 --broker-id REPLICA", Expect::AsSource),
    Tool::new("abort in a mirror", TRANSACTIONS, "abort --topic codecs --partition 0 --producer-id 77 --producer-epoch 0 --coordinator-epoch 0", Expect::Says(0, &[])),
    // Reassignments and elections.
    Tool::new("reassign generate", REASSIGN, "--topics-to-move-json-file FILES/own-topics.json --broker-list 1,2 --generate", Expect::SameShape),
    Tool::new("reassign execute", REASSIGN, "--reassignment-json-file FILES/own-move.json --execute --throttle 1000000", Expect::SameShape),
    Tool::new("reassign list", REASSIGN, "--list", Expect::Same),
    Tool::new("reassign verify", REASSIGN, "--reassignment-json-file FILES/own-move.json --verify", Expect::Same),
    Tool::new("reassign cancel", REASSIGN, "--reassignment-json-file FILES/own-move.json --cancel", Expect::Same),
    Tool::new("elect the moved", ELECTION, "--election-type preferred --path-to-json-file FILES/own-elect.json", Expect::Same),
    Tool::new("reassign back", REASSIGN, "--reassignment-json-file FILES/own-back.json --execute", Expect::SameShape),
    Tool::new("slow reassign", REASSIGN, "--reassignment-json-file FILES/slow-move.json --execute --throttle 1000", Expect::SameShape),
    Tool::new("slow reassign list", REASSIGN, "--list", Expect::Same),
    Tool::new("slow reassign verify", REASSIGN, "--reassignment-json-file FILES/slow-move.json --verify", Expect::Same),
    Tool::new("slow reassign cancel", REASSIGN, "--reassignment-json-file FILES/slow-move.json --cancel", Expect::Same),
    Tool::new("mirror reassign", REASSIGN, "--reassignment-json-file FILES/mirror-move.json --execute --throttle 1000000", Expect::Says(0, &["The inter-broker throttle limit was set to 1000000 B/s", "Successfully started partition reassignment for codecs-0"])),
    Tool::new("mirror reassign verify", REASSIGN, "--reassignment-json-file FILES/mirror-move.json --verify", Expect::Says(0, &["Reassignment of partition codecs-0 is completed.", "Clearing broker-level throttles on brokers BROKERS,9001"])),
    Tool::new("mirror reassign cancel", REASSIGN, "--reassignment-json-file FILES/mirror-move.json --cancel", Expect::Says(0, &["None of the specified partition reassignments are active."])),
    Tool::new("mirror reassign back", REASSIGN, "--reassignment-json-file FILES/mirror-back.json --execute", Expect::Says(0, &["Successfully started partition reassignment for codecs-0"])),
    Tool::new("mirror directories", REASSIGN, "--reassignment-json-file FILES/mirror-dirs.json --execute", Expect::Says(1, &["Error: Failed to alter dir for codecs-0-9001"])),
    Tool::new("elect", ELECTION, "--election-type preferred --path-to-json-file FILES/own-elect.json", Expect::Same),
    Tool::new("mirror elect", ELECTION, "--election-type preferred --path-to-json-file FILES/mirror-elect.json", Expect::Says(0, &["Valid replica already elected for partitions codecs-0"])),
    Tool::new("unclean election", ELECTION, "--election-type unclean --path-to-json-file FILES/own-elect.json", Expect::Same),
    Tool::new("mirror unclean election", ELECTION, "--election-type unclean --path-to-json-file FILES/mirror-elect.json", Expect::Says(0, &["Valid replica already elected for partitions codecs-0"])),
    Tool::new("delete records", DELETE_RECORDS, "--offset-json-file FILES/own-delete.json", Expect::Same),
    Tool::new("mirror delete records", DELETE_RECORDS, "--offset-json-file FILES/mirror-delete.json", Expect::Says(0, &["partition: codecs-0\terror: org.apache.kafka.common.errors.PolicyViolationException: Request parameters do not satisfy the configured policy."])),
    // The cluster.
    Tool::new("cluster id", CLUSTER, "cluster-id SERVER", Expect::Same),
    Tool::new("cluster endpoints", CLUSTER, "list-endpoints SERVER", Expect::Same).since_4(),
    Tool::new("quorum status", QUORUM, "describe --status", Expect::SameShape),
    Tool::new("quorum replication", QUORUM, "describe --replication", Expect::SameShape),
    Tool::new("versions", API_VERSIONS, "", Expect::Says(0, &["(id: 1 rack: null", "(id: 2 rack: null", "(id: 9001 rack: null", "Fetch(1): 4 to ", "WriteTxnMarkers(27): 1"])),
    Tool::new("features", FEATURES, "describe", Expect::SameShape),
    Tool::new("client metrics", "org.apache.kafka.tools.ClientMetricsCommand", "--list", Expect::Same),
    // Reading and writing.
    Tool::new("console consumer", CONSUMER, "--topic own --from-beginning --timeout-ms 5000 --max-messages 5 --partition 1", Expect::Same),
    Tool::new("console consumer of a mirror", CONSUMER, "--topic payments --partition 1 --from-beginning --timeout-ms 5000 --max-messages 50 --isolation-level read_committed", Expect::AsSource),
    Tool::new("console producer", PRODUCER, "--topic written --sync", Expect::Says(0, &[])).input("one\\ntwo\\n"),
    Tool::new("console producer to a mirror", PRODUCER, "--topic codecs --sync", Expect::Says(1, &["PolicyViolationException: topic codecs is a mirror of link test (lockstep): it is read-only until it is promoted"])).input("one\\ntwo\\n"),
    Tool::new("share group starts early", CONFIGS, "--alter --entity-type groups --entity-name sharing --add-config share.auto.offset.reset=earliest", Expect::Says(0, &["Completed updating config for group sharing."])).since_4(),
    Tool::new("share consumer", "org.apache.kafka.tools.consumer.ConsoleShareConsumer", "--topic own --group sharing --timeout-ms 10000 --max-messages 1", Expect::Says(0, &["Processed a total of 1 messages"])).since_4(),
    Tool::new("share group of a mirror starts early", CONFIGS, "--alter --entity-type groups --entity-name sharing-mirror --add-config share.auto.offset.reset=earliest", Expect::Says(0, &["Completed updating config for group sharing-mirror."])).since_4(),
    Tool::new("share consumer of a mirror", "org.apache.kafka.tools.consumer.ConsoleShareConsumer", "--topic codecs --group sharing-mirror --timeout-ms 20000 --max-messages 1", Expect::Says(0, &["IllegalStateException: Unexpected error code 44 while fetching from topic-partition codecs-", "Processed a total of 0 messages"])).since_4(),
    Tool::new("share groups", SHARE_GROUPS, "--list", Expect::Says(0, &["sharing"])).since_4(),
    // Last: it is back a moment later.
    Tool::new("unregister the seat", CLUSTER, "unregister SERVER --id 9001", Expect::Says(0, &["Broker 9001 is no longer registered."])).long(),
];
