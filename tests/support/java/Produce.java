// Sends a described load with Kafka's own producer and tells the fate of each record, one JSON line
// each, as it is known. Arguments are key=value; java.rs says what they mean.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Produce {
    private static final Map<String, String> OPTIONS = new HashMap<>();
    private static final AtomicBoolean FAILED = new AtomicBoolean();
    private static volatile boolean stopping;

    public static void main(String[] arguments) throws Exception {
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            try {
                main.join(20_000);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
        int begin = 0;
        for (int end = 0; end <= arguments.length && !stopping; end++) {
            if (end < arguments.length && !arguments[end].equals("and")) continue;
            load(Arrays.copyOfRange(arguments, begin, end));
            begin = end + 1;
        }
        System.out.flush();
        // Not exit(): the hook above waits for this thread. An open transaction stays open.
        Runtime.getRuntime().halt(FAILED.get() ? 1 : 0);
    }

    // Loads follow each other: what one sends is acknowledged before the next begins.
    private static void load(String[] arguments) throws Exception {
        OPTIONS.clear();
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            OPTIONS.put(pair[0], pair[1]);
        }
        start = System.nanoTime();
        String transactions = option("transactions", "none");
        if (transactions.equals("none") || transactions.equals("idempotent")) {
            plain(transactions.equals("idempotent"));
        } else {
            transactional(transactions);
        }
    }

    private static void plain(boolean idempotent) throws Exception {
        KafkaProducer<byte[], byte[]> producer = producer(null, idempotent);
        for (long index = first(); goesOn(index); index++) {
            pace(index);
            send(producer, index, "none");
            if (index % number("flush", Long.MAX_VALUE) == number("flush", Long.MAX_VALUE) - 1) {
                producer.flush();
            }
        }
        producer.flush();
        producer.close();
    }

    // commit, abort: every transaction; mix: by turns; interleaved: two at a time on the same
    // partitions, one commits and one aborts; open: the last one is never ended.
    private static void transactional(String mode) throws Exception {
        String id = option("transactional-id", "judge-" + ProcessHandle.current().pid());
        List<KafkaProducer<byte[], byte[]>> producers = new ArrayList<>();
        int count = mode.equals("interleaved") ? 2 : 1;
        for (int each = 0; each < count; each++) {
            producers.add(producer(id + "-" + each, true));
            producers.get(each).initTransactions();
        }
        long perTransaction = number("per-transaction", 10);
        long index = first();
        for (long round = 0; goesOn(index); round++) {
            for (KafkaProducer<byte[], byte[]> producer : producers) {
                producer.beginTransaction();
            }
            boolean last = false;
            for (long sent = 0; sent < perTransaction * count && goesOn(index); sent++, index++) {
                pace(index);
                int each = (int) (sent % count);
                send(producers.get(each), index, fate(mode, round, each));
                // Batches of the two stand by turns in the log, not one after the other.
                if (count > 1) producers.get(each).flush();
                last = !goesOn(index + 1);
            }
            for (int each = 0; each < count; each++) {
                producers.get(each).flush();
                if (mode.equals("open") && last) continue;
                if (fate(mode, round, each).equals("abort")) {
                    producers.get(each).abortTransaction();
                } else {
                    producers.get(each).commitTransaction();
                }
            }
        }
        if (!mode.equals("open")) {
            producers.forEach(KafkaProducer::close);
        }
    }

    private static String fate(String mode, long round, int each) {
        switch (mode) {
            case "abort": return "abort";
            case "mix": return round % 2 == 0 ? "commit" : "abort";
            case "interleaved": return (round + each) % 2 == 0 ? "commit" : "abort";
            case "open": return "open";
            default: return "commit";
        }
    }

    private static void send(KafkaProducer<byte[], byte[]> producer, long index, String fate)
            throws InterruptedException {
        long partition = number("partition", -1);
        RecordHeaders headers = new RecordHeaders();
        for (long each = 0; each < number("headers", 0); each++) {
            // Names repeat, and every third value is null.
            byte[] value = each % 3 == 2 ? null : ("value " + index).getBytes(StandardCharsets.UTF_8);
            headers.add("header-" + each / 2, value);
        }
        long keys = number("keys", 0);
        byte[] key = keys == 0 ? null : ("key-" + index % keys).getBytes(StandardCharsets.UTF_8);
        long nulls = number("null-values", 0);
        byte[] value = nulls > 0 && index % nulls == nulls - 1 ? null : value(index);
        Long timestamp = timestamp(index);
        Integer to = partition < 0 ? null : Integer.valueOf((int) partition);
        try {
            producer.send(
                new ProducerRecord<>(option("topic", ""), to, timestamp, key, value, headers),
                (metadata, error) -> {
                    if (error == null) {
                        tell("{\"index\":%d,\"partition\":%d,\"offset\":%d,\"fate\":\"%s\"}",
                            index, metadata.partition(), metadata.offset(), fate);
                    } else {
                        fail(index, error);
                    }
                });
        } catch (RuntimeException error) {
            fail(index, error);
        }
    }

    private static byte[] value(long index) {
        String text = option("value", "");
        if (!text.isEmpty()) return text.getBytes(StandardCharsets.UTF_8);
        int size = (int) number("size", 100);
        byte[] value = new byte[size];
        Random random = new Random(index);
        random.nextBytes(value);
        // The second half compresses, as data in the field does.
        for (int at = size / 2; at < size; at++) value[at] = (byte) ('a' + at % 7);
        byte[] name = ("value-" + index + " ").getBytes(StandardCharsets.UTF_8);
        System.arraycopy(name, 0, value, 0, Math.min(size, name.length));
        return value;
    }

    private static Long timestamp(long index) {
        String timestamp = option("timestamp", "now");
        return timestamp.equals("now") ? null : Long.valueOf(Long.parseLong(timestamp) + index);
    }

    private static KafkaProducer<byte[], byte[]> producer(String transactionalId, boolean idempotent) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", option("bootstrap", ""));
        properties.put("acks", option("acks", "all"));
        properties.put("enable.idempotence", Boolean.toString(idempotent));
        properties.put("compression.type", option("compression", "none"));
        if (transactionalId != null) properties.put("transactional.id", transactionalId);
        properties.put("delivery.timeout.ms", "30000");
        properties.put("request.timeout.ms", "10000");
        properties.put("max.block.ms", "30000");
        OPTIONS.forEach((key, value) -> {
            if (key.startsWith("producer.")) properties.put(key.substring(9), value);
        });
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static long first() {
        return number("first", 0);
    }

    private static boolean goesOn(long index) {
        long count = number("count", 10);
        return !stopping && (count == 0 || index < first() + count);
    }

    // A steady rate where one is asked for; sleeping here shapes load, it does not order events.
    private static long start;

    private static void pace(long index) {
        long rate = number("rate", 0);
        if (rate == 0) return;
        long due = start + (index - first()) * 1_000_000_000L / rate;
        for (long left = due - System.nanoTime(); left > 0; left = due - System.nanoTime()) {
            if (stopping) return;
            LockSupport.parkNanos(left);
        }
    }

    private static void fail(long index, Exception error) {
        Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
        FAILED.set(true);
        tell("{\"index\":%d,\"error\":\"%s\",\"message\":\"%s\"}", index,
            cause.getClass().getSimpleName(),
            String.valueOf(cause.getMessage()).replaceAll("[^ -~]|[\"\\\\]", " "));
    }

    private static synchronized void tell(String format, Object... values) {
        System.out.println(String.format(format, values));
    }

    private static String option(String name, String otherwise) {
        return OPTIONS.getOrDefault(name, otherwise);
    }

    private static long number(String name, long otherwise) {
        String value = OPTIONS.get(name);
        return value == null ? otherwise : Long.parseLong(value);
    }
}
