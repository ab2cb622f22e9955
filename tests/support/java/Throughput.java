// Reads a whole topic several times over with one consumer that assigns itself everything, and prints a
// line for each pass: how long the first record of it took, and how fast all of it came. The first pass
// pays for what a client does once: metadata, connections, learning where to read. Arguments are
// key=value: bootstrap, topic, passes.

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Throughput {
    private static final double MIB = 1 << 20;

    public static void main(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            options.put(pair[0], pair[1]);
        }
        Properties properties = new Properties();
        properties.put("bootstrap.servers", options.get("bootstrap"));
        properties.put("enable.auto.commit", "false");
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
            properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            long begun = System.nanoTime();
            List<TopicPartition> partitions = new ArrayList<>();
            for (PartitionInfo info : consumer.partitionsFor(options.get("topic"))) {
                partitions.add(new TopicPartition(info.topic(), info.partition()));
            }
            consumer.assign(partitions);
            long records = consumer.endOffsets(partitions).values().stream().mapToLong(end -> end).sum();
            for (int pass = 1; pass <= Integer.parseInt(options.get("passes")); pass++) {
                read(consumer, partitions, records, pass, begun);
                begun = System.nanoTime();
            }
        }
    }

    // The topic has nothing but records: no holes, no transactions.
    private static void read(
        KafkaConsumer<byte[], byte[]> consumer,
        List<TopicPartition> partitions,
        long records,
        int pass,
        long begun) {
        consumer.seekToBeginning(partitions);
        long first = 0;
        long bytes = 0;
        for (long read = 0; read < records; ) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                if (read++ == 0) first = System.nanoTime();
                bytes += record.serializedValueSize();
            }
            if (System.nanoTime() - begun > 120_000_000_000L) {
                System.err.println(read + " of " + records + " records in two minutes");
                Runtime.getRuntime().halt(1);
            }
        }
        double seconds = (System.nanoTime() - first) / 1e9;
        System.out.printf(
            "pass %d first-ms %.0f mib-per-second %.1f%n", pass, (first - begun) / 1e6, bytes / MIB / seconds);
    }
}
