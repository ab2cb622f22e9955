// Consumer groups of both protocols on some topics: two members that share them, and later one that resumes. Arguments:
// bootstrap servers, topics, "together" or "resume". Prints one line for each step that does not depend on the cluster
// but on what is in the topics.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
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
    private static final long DEADLINE = System.nanoTime() + 60_000_000_000L;
    private static String bootstrap;
    private static List<String> topics;

    private final String protocol;
    private final String group;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        topics = Arrays.asList(arguments[1].split(","));
        for (String protocol : new String[] {"classic", "consumer"}) {
            Groups groups = new Groups(protocol);
            if (arguments[2].equals("together")) groups.together();
            else groups.resume();
        }
    }

    private Groups(String protocol) {
        this.protocol = protocol;
        this.group = "shared-" + protocol;
    }

    // One begins, a second joins, and between them they read every record once; what is revoked is committed.
    private void together() {
        Member first = new Member(group, "earliest");
        Set<TopicPartition> all = first.joined();
        Map<TopicPartition, Long> ends = first.consumer.endOffsets(all);
        for (int read = 0; read < 20; read = first.records.size()) first.poll();
        Member second = new Member(group, "earliest");
        while (!isSplit(first, second, all.size()) || !isRead(ends, first, second)) {
            first.poll();
            second.poll();
        }
        first.consumer.commitSync();
        second.consumer.commitSync();
        List<ConsumerRecord<byte[], byte[]>> read = new ArrayList<>(first.records);
        read.addAll(second.records);
        tell("read together", ranges(read));
        second.consumer.close();
        while (first.consumer.assignment().size() < all.size()) first.poll();
        Map<TopicPartition, OffsetAndMetadata> committed = first.consumer.committed(all);
        TreeMap<String, String> shown = new TreeMap<>();
        committed.forEach((place, at) -> shown.put(
            place.toString(), at.offset() + (at.leaderEpoch().isPresent() ? " with its epoch" : " without an epoch")));
        tell("committed", shown);
        first.consumer.close();
    }

    // A new member goes on where the group was, whoever has led since; other groups begin where they are told to.
    private void resume() {
        Member member = new Member(group, "none");
        Set<TopicPartition> all = member.joined();
        TreeMap<String, Long> committed = new TreeMap<>();
        member.consumer.committed(all).forEach((place, at) -> committed.put(place.toString(), at.offset()));
        tell("resumed at", committed);
        Map<TopicPartition, Long> ends = member.consumer.endOffsets(all);
        while (!isRead(ends, member)) member.poll();
        tell("read since", ranges(member.records));
        byTime(member, all);
        member.consumer.close();
        for (String reset : new String[] {"earliest", "latest"}) {
            Member fresh = new Member("fresh-" + reset + "-" + protocol, reset);
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
        Map<TopicPartition, Long> ends = member.consumer.endOffsets(all);
        do member.poll(); while (!isRead(ends, member));
        tell("read from that time", ranges(member.records));
    }

    private boolean isSplit(Member first, Member second, int all) {
        int ofFirst = first.consumer.assignment().size();
        int ofSecond = second.consumer.assignment().size();
        return ofFirst > 0 && ofSecond > 0 && ofFirst + ofSecond == all;
    }

    private static boolean isRead(Map<TopicPartition, Long> ends, Member... members) {
        int read = 0;
        for (Member member : members) {
            for (TopicPartition place : member.consumer.assignment()) {
                if (member.consumer.position(place) >= ends.get(place)) read++;
            }
        }
        return read == ends.size();
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
        System.out.println(protocol + ": " + step + ": " + what);
    }

    private final class Member {
        final KafkaConsumer<byte[], byte[]> consumer;
        final List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        // Where each partition began, before the first record.
        final TreeMap<String, Long> positions = new TreeMap<>();

        Member(String group, String reset) {
            Properties properties = new Properties();
            properties.put("bootstrap.servers", bootstrap);
            properties.put("group.id", group);
            properties.put("group.protocol", protocol);
            properties.put("auto.offset.reset", reset);
            properties.put("isolation.level", "read_committed");
            properties.put("enable.auto.commit", "false");
            properties.put("max.poll.records", "10");
            if (protocol.equals("classic")) properties.put("heartbeat.interval.ms", "500");
            consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            consumer.subscribe(topics, new ConsumerRebalanceListener() {
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

        Set<TopicPartition> joined() {
            while (consumer.assignment().isEmpty()) poll();
            return consumer.assignment();
        }

        void poll() {
            if (System.nanoTime() > DEADLINE) throw new IllegalStateException("not in time");
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(50))) records.add(record);
        }
    }
}
