// Seeks to offsets that are not there, under each policy, and prints what becomes of the consumer: one
// line each, "policy offset outcome". Arguments are key=value; java.rs says what they mean.

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Reset {
    private static final Map<String, String> OPTIONS = new HashMap<>();
    private static final long LIMIT_NANOS = 20_000_000_000L;

    public static void main(String[] arguments) {
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            OPTIONS.put(pair[0], pair[1]);
        }
        TopicPartition partition =
            new TopicPartition(OPTIONS.get("topic"), Integer.parseInt(OPTIONS.get("partition")));
        for (String policy : List.of("earliest", "latest", "none")) {
            for (String offset : OPTIONS.get("offsets").split(",")) {
                String outcome = outcome(partition, policy, Long.parseLong(offset));
                System.out.println(policy + " " + offset + " " + outcome);
            }
        }
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    private static String outcome(TopicPartition partition, String policy, long offset) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(policy)) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, offset);
            long start = System.nanoTime();
            for (long limit = System.nanoTime() + LIMIT_NANOS; System.nanoTime() < limit; ) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(50));
                if (!records.isEmpty()) {
                    System.err.println("reads after " + (System.nanoTime() - start) / 1_000_000 + " ms");
                    return "reads " + records.iterator().next().offset();
                }
                long position = consumer.position(partition);
                // Reset, and there may be nothing to read; from the start there is.
                if (position != offset && policy.equals("latest")) return "waits at " + position;
            }
            return "stays at " + consumer.position(partition);
        } catch (KafkaException error) {
            return error.getClass().getSimpleName();
        }
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String policy) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", OPTIONS.get("bootstrap"));
        properties.put("auto.offset.reset", policy);
        properties.put("enable.auto.commit", "false");
        properties.put("isolation.level", "read_committed");
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }
}
