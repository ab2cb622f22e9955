// Members of consumer groups, as programs.rs says under "group programs", for each protocol of "protocol" beside each
// other. Runs with Kafka's clients of any release since 2.4.

import java.io.File;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Groups {
    private static final long DEADLINE = System.nanoTime() + 180_000_000_000L;
    // Records of the first member before the second may join.
    private static final int BEGUN = 20;
    private static final Map<String, String> OPTIONS = new HashMap<>();
    private static volatile boolean failed;

    private final String protocol;
    private final String name;

    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            OPTIONS.put(pair[0], pair[1]);
        }
        List<Thread> threads = new ArrayList<>();
        for (String protocol : OPTIONS.get("protocol").split(",")) threads.add(new Thread(new Groups(protocol)::play));
        threads.forEach(Thread::start);
        for (Thread thread : threads) thread.join();
        Runtime.getRuntime().halt(failed ? 1 : 0);
    }

    private Groups(String protocol) {
        this.protocol = protocol;
        this.name = OPTIONS.get("name") + "-" + protocol;
    }

    private void play() {
        try {
            switch (OPTIONS.get("act")) {
                case "share": share(); break;
                case "resume": resume(); break;
                default: tail();
            }
        } catch (Exception error) {
            failed = true;
            System.err.println(name + ": " + error);
            error.printStackTrace();
        }
    }

    // One begins, a second joins, and between them they read every record once; what is revoked is committed.
    private void share() {
        Member first = new Member(name, "earliest");
        while (first.records.size() < BEGUN) first.poll();
        tell("begun", "");
        while (!new File(OPTIONS.get("join")).exists()) first.poll();
        Member second = new Member(name, "earliest");
        while (!isSplit(first, second)) {
            first.poll();
            second.poll();
        }
        tell("joined", "");
        while (!isRead(first, second)) {
            first.poll();
            second.poll();
        }
        first.consumer.commitSync();
        second.consumer.commitSync();
        List<ConsumerRecord<byte[], byte[]>> read = new ArrayList<>(first.records);
        read.addAll(second.records);
        tell("read together", ranges(read));
        second.consumer.close();
        Set<TopicPartition> all = first.joined();
        TreeMap<String, String> shown = new TreeMap<>();
        first.consumer.committed(all).forEach((place, at) -> shown.put(
            place.toString(), at.offset() + (at.leaderEpoch().isPresent() ? " with its epoch" : " without an epoch")));
        tell("committed", shown);
        first.consumer.close();
    }

    // A new member goes on where the group was, whoever has led since; other groups begin where they are told to.
    private void resume() {
        Member member = new Member(name, "none");
        Set<TopicPartition> all = member.joined();
        TreeMap<String, Long> committed = new TreeMap<>();
        member.consumer.committed(all).forEach((place, at) -> committed.put(place.toString(), at.offset()));
        tell("resumed at", committed);
        while (!isRead(member)) member.poll();
        tell("read since", ranges(member.records));
        byTime(member, all);
        member.consumer.close();
        for (String reset : new String[] {"earliest", "latest"}) {
            Member fresh = new Member(name + "-" + reset, reset);
            fresh.joined();
            tell(reset, fresh.positions);
            fresh.consumer.close();
        }
    }

    private void byTime(Member member, Set<TopicPartition> all) {
        // In whatever order the partitions came.
        long[] times = member.records.stream().mapToLong(ConsumerRecord::timestamp).sorted().toArray();
        long time = times[times.length / 2];
        Map<TopicPartition, Long> wanted = new HashMap<>();
        all.forEach(place -> wanted.put(place, time));
        TreeMap<String, Long> found = new TreeMap<>();
        for (Map.Entry<TopicPartition, OffsetAndTimestamp> each : member.consumer.offsetsForTimes(wanted).entrySet()) {
            if (each.getValue() == null) {
                found.put(each.getKey().toString(), -1L);
                continue;
            }
            found.put(each.getKey().toString(), each.getValue().offset());
            member.consumer.seek(each.getKey(), each.getValue().offset());
        }
        tell("by time", found);
        member.records.clear();
        member.ended.clear();
        while (!isRead(member)) member.poll();
        tell("read from that time", ranges(member.records));
    }

    // A member of a new group waits at the end, and reads what comes.
    private void tail() {
        Member member = new Member(name + "-tail", "latest");
        member.joined();
        tell("at the end", "");
        while (!isRead(member)) member.poll();
        tell("read at the end", ranges(member.records));
        member.consumer.close();
    }

    private static int partitions() {
        return Integer.parseInt(OPTIONS.get("partitions"));
    }

    private static boolean isSplit(Member first, Member second) {
        int ofFirst = first.consumer.assignment().size();
        int ofSecond = second.consumer.assignment().size();
        return ofFirst > 0 && ofSecond > 0 && ofFirst + ofSecond == partitions();
    }

    private static boolean isRead(Member... members) {
        Set<TopicPartition> ended = new HashSet<>();
        for (Member member : members) ended.addAll(member.ended);
        return ended.size() == partitions();
    }

    // First and last offset of each partition, and how many records: of no record two, of no gap a word.
    private static TreeMap<String, String> ranges(Collection<ConsumerRecord<byte[], byte[]>> records) {
        TreeMap<String, TreeSet<Long>> offsets = new TreeMap<>();
        TreeMap<String, Integer> counts = new TreeMap<>();
        for (ConsumerRecord<byte[], byte[]> record : records) {
            String place = record.topic() + "-" + record.partition();
            offsets.computeIfAbsent(place, key -> new TreeSet<>()).add(record.offset());
            counts.merge(place, 1, Integer::sum);
        }
        TreeMap<String, String> ranges = new TreeMap<>();
        offsets.forEach((place, all) -> ranges.put(place,
            all.first() + " to " + all.last() + ", " + all.size() + " offsets, " + counts.get(place) + " records"));
        return ranges;
    }

    private void tell(String step, Object what) {
        System.out.println(name + ": " + step + ": " + what);
    }

    private final class Member {
        final KafkaConsumer<byte[], byte[]> consumer;
        final List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        // Where the last record has been read.
        final Set<TopicPartition> ended = new HashSet<>();
        // Where each partition began, before the first record.
        final TreeMap<String, Long> positions = new TreeMap<>();

        Member(String group, String reset) {
            Properties properties = new Properties();
            properties.put("bootstrap.servers", OPTIONS.get("bootstrap"));
            properties.put("group.id", group);
            properties.put("auto.offset.reset", reset);
            properties.put("isolation.level", "read_committed");
            properties.put("enable.auto.commit", "false");
            properties.put("max.poll.records", "10");
            if (protocol.equals("classic")) properties.put("heartbeat.interval.ms", "500");
            else properties.put("group.protocol", protocol);
            consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            consumer.subscribe(Arrays.asList(OPTIONS.get("topics").split(",")), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> places) {
                    consumer.commitSync();
                }

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> places) {
                    for (TopicPartition place : places) positions.put(place.toString(), consumer.position(place));
                }
            });
        }

        // The only member has all partitions in the end.
        Set<TopicPartition> joined() {
            while (consumer.assignment().size() < partitions()) poll();
            return consumer.assignment();
        }

        void poll() {
            if (System.nanoTime() > DEADLINE) throw new IllegalStateException("not in time");
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(50))) {
                records.add(record);
                byte[] value = record.value();
                if (value != null && new String(value).equals(OPTIONS.get("until"))) {
                    ended.add(new TopicPartition(record.topic(), record.partition()));
                }
            }
        }
    }
}
