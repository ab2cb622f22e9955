// Reads topics with Kafka's own consumer, in a group or by assignment, and prints each record as one
// line whose form does not depend on where it was read. Arguments are key=value; java.rs says what they
// mean.

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Consume {
    private static final Map<String, String> OPTIONS = new HashMap<>();
    private static final StringBuilder OUT = new StringBuilder();
    private static volatile boolean stopping;

    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            OPTIONS.put(pair[0], pair[1]);
        }
        KafkaConsumer<byte[], byte[]> consumer = consumer();
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            consumer.wakeup();
            try {
                main.join(20_000);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
        List<String> topics = Arrays.asList(option("topics", "").split(","));
        if (OPTIONS.containsKey("group")) {
            consumer.subscribe(topics);
        } else {
            assign(consumer, topics);
        }
        boolean done = false;
        try {
            done = read(consumer);
            if (OPTIONS.containsKey("group")) consumer.commitSync();
        } catch (WakeupException wakeup) {
            done = true;
        }
        measure(consumer);
        consumer.close();
        System.out.print(OUT);
        System.out.flush();
        Runtime.getRuntime().halt(done ? 0 : 1);
    }

    // True when all there was at the time of assignment, or the wanted count, has been read.
    private static boolean read(KafkaConsumer<byte[], byte[]> consumer) throws Exception {
        long count = number("count", Long.MAX_VALUE);
        Map<TopicPartition, Long> seen = new HashMap<>();
        long deadline = System.nanoTime() + number("seconds", 60) * 1_000_000_000L;
        Map<TopicPartition, Long> ends = null;
        boolean follow = option("until", "end").equals("stopped");
        for (long read = 0; read < count && !stopping; ) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                if (read == count) break;
                print(record);
                seen.merge(new TopicPartition(record.topic(), record.partition()), 1L, Long::sum);
                read++;
            }
            if (follow) {
                ask(consumer);
                System.out.print(OUT);
                System.out.flush();
                OUT.setLength(0);
                continue;
            }
            if (ends == null && !consumer.assignment().isEmpty()) {
                ends = consumer.endOffsets(consumer.assignment());
            }
            if (count == Long.MAX_VALUE && ends != null && atEnd(consumer, ends)) return true;
            if (System.nanoTime() > deadline) {
                System.err.println("not at the end in time: " + read + " of " + count + " records");
                explain(consumer, ends, seen);
                return false;
            }
        }
        return true;
    }

    private static long nextAsk;

    // Asks the leaders in between: "asked" and the milliseconds that it took.
    private static void ask(KafkaConsumer<?, ?> consumer) {
        long interval = number("ask", 0);
        long now = System.nanoTime();
        if (interval == 0 || now < nextAsk || consumer.assignment().isEmpty()) return;
        consumer.endOffsets(consumer.assignment());
        OUT.append("asked ").append((System.nanoTime() - now) / 1_000_000).append('\n');
        nextAsk = System.nanoTime() + interval * 1_000_000;
    }

    // Where it stands at each partition, in case of failure.
    private static void explain(
            KafkaConsumer<?, ?> consumer, Map<TopicPartition, Long> ends, Map<TopicPartition, Long> seen) {
        System.err.println("read " + seen + ", ends at assignment " + ends);
        Duration wait = Duration.ofSeconds(5);
        try {
            for (TopicPartition partition : consumer.assignment()) {
                System.err.println(partition + " at " + consumer.position(partition, wait));
            }
            System.err.println("starts now " + consumer.beginningOffsets(consumer.assignment(), wait));
            System.err.println("ends now " + consumer.endOffsets(consumer.assignment(), wait));
        } catch (RuntimeException error) {
            System.err.println("and cannot ask: " + error);
        }
    }

    private static boolean atEnd(KafkaConsumer<?, ?> consumer, Map<TopicPartition, Long> ends) {
        for (Map.Entry<TopicPartition, Long> end : ends.entrySet()) {
            if (!consumer.assignment().contains(end.getKey())) continue;
            if (consumer.position(end.getKey()) < end.getValue()) return false;
        }
        return true;
    }

    private static void assign(KafkaConsumer<?, ?> consumer, List<String> topics) {
        List<TopicPartition> partitions = new ArrayList<>();
        for (String topic : topics) {
            for (PartitionInfo info : consumer.partitionsFor(topic)) {
                partitions.add(new TopicPartition(topic, info.partition()));
            }
        }
        consumer.assign(partitions);
        if (option("from", "beginning").equals("end")) {
            consumer.seekToEnd(partitions);
        } else {
            consumer.seekToBeginning(partitions);
        }
    }

    // metric NAME VALUE, of those asked for
    private static void measure(KafkaConsumer<?, ?> consumer) {
        List<String> names = Arrays.asList(option("metrics", "").split(","));
        consumer.metrics().forEach((name, metric) -> {
            if (name.group().equals("consumer-metrics") && names.contains(name.name())) {
                System.err.println("metric " + name.name() + " " + metric.metricValue());
            }
        });
    }

    // topic partition offset timestamp-type timestamp key value headers
    private static void print(ConsumerRecord<byte[], byte[]> record) throws Exception {
        OUT.append(record.topic()).append(' ').append(record.partition()).append(' ')
            .append(record.offset()).append(' ').append(record.timestampType()).append(' ')
            .append(record.timestamp()).append(' ').append(text(record.key())).append(' ')
            .append(text(record.value())).append(' ');
        for (Header header : record.headers()) {
            OUT.append(header.key()).append('=').append(text(header.value())).append(',');
        }
        OUT.append('\n');
    }

    private static String text(byte[] bytes) throws Exception {
        if (bytes == null) return "null";
        if (bytes.length <= 64) return "b64:" + Base64.getEncoder().encodeToString(bytes);
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(bytes);
        return "sha256:" + bytes.length + ":" + Base64.getEncoder().encodeToString(digest);
    }

    private static KafkaConsumer<byte[], byte[]> consumer() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", option("bootstrap", ""));
        properties.put("isolation.level", option("isolation", "read_uncommitted"));
        properties.put("auto.offset.reset", option("from", "beginning").equals("end") ? "latest" : "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("allow.auto.create.topics", "false");
        if (OPTIONS.containsKey("group")) properties.put("group.id", option("group", ""));
        OPTIONS.forEach((key, value) -> {
            if (key.startsWith("consumer.")) properties.put(key.substring(9), value);
        });
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static String option(String name, String otherwise) {
        return OPTIONS.getOrDefault(name, otherwise);
    }

    private static long number(String name, long otherwise) {
        String value = OPTIONS.get(name);
        return value == null ? otherwise : Long.parseLong(value);
    }
}
