// Times one record after the other on its way to a consumer at the source and to one at the
// destination, all in this JVM and by its clock. Arguments are key=value: source, destination, topic
// (one partition), count, warm-up (records sent before, not counted), interval-ms.

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Latency {
    private static final Map<String, String> OPTIONS = new HashMap<>();

    // Records of an earlier run of this program carry another mark.
    private static final long MARK = System.nanoTime();

    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            OPTIONS.put(pair[0], pair[1]);
        }
        int warmUp = number("warm-up");
        int total = warmUp + number("count");
        long[] sent = new long[total];
        Reader atSource = new Reader(OPTIONS.get("source"), total);
        Reader atDestination = new Reader(OPTIONS.get("destination"), total);
        atSource.start();
        atDestination.start();
        send(sent);
        boolean complete = atSource.done.await(60, TimeUnit.SECONDS)
            && atDestination.done.await(60, TimeUnit.SECONDS);
        if (!complete) {
            System.err.printf("missing: %d at the source, %d at the destination%n",
                atSource.done.getCount(), atDestination.done.getCount());
            Runtime.getRuntime().halt(1);
        }
        double[] source = new double[total - warmUp];
        double[] destination = new double[total - warmUp];
        double[] added = new double[total - warmUp];
        for (int at = 0; at < added.length; at++) {
            long begun = sent[warmUp + at];
            source[at] = (atSource.received.get(warmUp + at) - begun) / 1e6;
            destination[at] = (atDestination.received.get(warmUp + at) - begun) / 1e6;
            added[at] = destination[at] - source[at];
        }
        print("source", source);
        print("destination", destination);
        print("added", added);
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    private static void send(long[] sent) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", OPTIONS.get("source"));
        properties.put("acks", "1");
        properties.put("enable.idempotence", "false");
        properties.put("linger.ms", "0");
        long interval = TimeUnit.MILLISECONDS.toNanos(number("interval-ms"));
        KafkaProducer<byte[], byte[]> producer =
            new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
        producer.partitionsFor(OPTIONS.get("topic"));
        long begun = System.nanoTime();
        for (int index = 0; index < sent.length; index++) {
            long due = begun + index * interval;
            for (long left = due - System.nanoTime(); left > 0; left = due - System.nanoTime()) {
                LockSupport.parkNanos(left);
            }
            byte[] value = ByteBuffer.allocate(100).putLong(MARK).putInt(index).array();
            sent[index] = System.nanoTime();
            producer.send(new ProducerRecord<>(OPTIONS.get("topic"), 0, null, value));
        }
        producer.close();
    }

    private static final class Reader extends Thread {
        final AtomicLongArray received;
        final CountDownLatch done;
        private final String bootstrap;

        Reader(String bootstrap, int total) {
            this.bootstrap = bootstrap;
            this.received = new AtomicLongArray(total);
            this.done = new CountDownLatch(total);
            setDaemon(true);
        }

        @Override
        public void run() {
            Properties properties = new Properties();
            properties.put("bootstrap.servers", bootstrap);
            properties.put("enable.auto.commit", "false");
            KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
                properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            List<TopicPartition> partitions =
                List.of(new TopicPartition(OPTIONS.get("topic"), 0));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (done.getCount() > 0) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    long now = System.nanoTime();
                    ByteBuffer value = ByteBuffer.wrap(record.value());
                    if (value.getLong() != MARK) continue;
                    if (received.compareAndSet(value.getInt(), 0, now)) done.countDown();
                }
            }
        }
    }

    private static void print(String what, double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        System.out.printf("%-11s p50 %.2f p90 %.2f p99 %.2f max %.2f%n", what,
            at(sorted, 0.5), at(sorted, 0.9), at(sorted, 0.99), sorted[sorted.length - 1]);
    }

    private static double at(double[] sorted, double part) {
        return sorted[(int) Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
    }

    private static int number(String name) {
        return Integer.parseInt(OPTIONS.get(name));
    }
}
