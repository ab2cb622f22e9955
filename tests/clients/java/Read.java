// Reads with Kafka's own consumer of any release since 2.0: readers beside each other, one thread each, until each has
// seen the value "end" in every partition. Prints each record as one JSON line. Arguments are key=value, readers are
// divided by "and"; programs.rs says what the keys mean.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Read {
    private static volatile boolean failed;
    private final Map<String, String> options = new HashMap<>();
    private final Set<TopicPartition> ended = new HashSet<>();

    public static void main(String[] arguments) throws Exception {
        List<Thread> readers = new ArrayList<>();
        int begin = 0;
        for (int end = 0; end <= arguments.length; end++) {
            if (end < arguments.length && !arguments[end].equals("and")) continue;
            Read reader = new Read(Arrays.copyOfRange(arguments, begin, end));
            readers.add(new Thread(reader::run));
            begin = end + 1;
        }
        readers.forEach(Thread::start);
        for (Thread reader : readers) reader.join();
        Runtime.getRuntime().halt(failed ? 1 : 0);
    }

    private Read(String[] arguments) {
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            options.put(pair[0], pair[1]);
        }
    }

    private void run() {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            List<String> topics = Arrays.asList(options.get("topics").split(","));
            if (options.get("mode").equals("assign")) {
                List<TopicPartition> partitions = partitions(consumer, topics);
                consumer.assign(partitions);
                consumer.seekToBeginning(partitions);
            } else {
                consumer.subscribe(topics);
            }
            int count = Integer.parseInt(options.get("partitions"));
            long pause = Long.parseLong(options.get("pace"));
            while (ended.size() < count) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    if (pause > 0) Thread.sleep(pause);
                    print(record);
                }
            }
        } catch (Exception error) {
            failed = true;
            System.err.println(options.get("name") + ": " + error);
            error.printStackTrace();
        }
    }

    private static List<TopicPartition> partitions(KafkaConsumer<?, ?> consumer, List<String> topics) {
        List<TopicPartition> partitions = new ArrayList<>();
        for (String topic : topics) {
            for (PartitionInfo info : consumer.partitionsFor(topic)) {
                partitions.add(new TopicPartition(topic, info.partition()));
            }
        }
        return partitions;
    }

    private void print(ConsumerRecord<byte[], byte[]> record) {
        StringBuilder headers = new StringBuilder();
        for (Header header : record.headers()) {
            if (headers.length() > 0) headers.append(',');
            headers.append("[\"").append(header.key()).append("\",").append(hex(header.value())).append(']');
        }
        String line = String.format(
            "{\"reader\":\"%s\",\"topic\":\"%s\",\"partition\":%d,\"offset\":%d,\"timestamp\":%d,\"key\":%s,"
                + "\"value\":%s,\"headers\":[%s]}",
            options.get("name"), record.topic(), record.partition(), record.offset(), record.timestamp(),
            hex(record.key()), hex(record.value()), headers);
        synchronized (Read.class) {
            System.out.println(line);
        }
        if (record.value() != null && Arrays.equals(record.value(), new byte[] {'e', 'n', 'd'})) {
            ended.add(new TopicPartition(record.topic(), record.partition()));
        }
    }

    private static String hex(byte[] bytes) {
        if (bytes == null) return "null";
        StringBuilder text = new StringBuilder("\"");
        for (byte each : bytes) text.append(Character.forDigit(each >> 4 & 15, 16)).append(Character.forDigit(each & 15, 16));
        return text.append('"').toString();
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", options.get("bootstrap"));
        properties.put("client.id", options.get("name"));
        properties.put("isolation.level", options.get("isolation"));
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("max.partition.fetch.bytes", "16384");
        properties.put("max.poll.records", "50");
        if (!options.get("mode").equals("assign")) properties.put("group.id", options.get("name"));
        if (options.get("mode").equals("consumer")) properties.put("group.protocol", "consumer");
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }
}
