// Producers of every kind meet a mirror and go on with another topic. Arguments: bootstrap servers, the mirror, the other
// topic. Prints one JSON line for each kind: the error, its text, milliseconds until it came, and what became of the
// records after it.

import java.util.Properties;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public final class Refused {
    private static String[] given;

    public static void main(String[] arguments) throws Exception {
        given = arguments;
        for (String kind : new String[] {"plain", "idempotent", "transactional", "unacknowledged"}) {
            try (KafkaProducer<String, String> producer = producer(kind)) {
                if (kind.equals("transactional")) producer.initTransactions();
                else producer.send(record(given[2])).get();
                meet(kind, producer);
            }
        }
    }

    private static void meet(String kind, KafkaProducer<String, String> producer) throws Exception {
        boolean transactional = kind.equals("transactional");
        String error = "";
        String message = "";
        long begin = System.nanoTime();
        try {
            if (transactional) producer.beginTransaction();
            producer.send(record(given[1])).get();
        } catch (ExecutionException refused) {
            error = refused.getCause().getClass().getSimpleName();
            message = String.valueOf(refused.getCause().getMessage());
        }
        long milliseconds = (System.nanoTime() - begin) / 1_000_000;
        String after = "";
        try {
            if (transactional) {
                producer.abortTransaction();
                producer.beginTransaction();
            }
            for (int each = 0; each < 3; each++) producer.send(record(given[2])).get();
            if (transactional) producer.commitTransaction();
        } catch (Exception failed) {
            after = failed.toString();
        }
        System.out.println(String.format(
            "{\"kind\":\"%s\",\"error\":\"%s\",\"message\":\"%s\",\"milliseconds\":%d,\"after\":\"%s\"}",
            kind, error, plain(message), milliseconds, plain(after)));
    }

    private static ProducerRecord<String, String> record(String topic) {
        return new ProducerRecord<>(topic, 0, null, "a record");
    }

    private static String plain(String text) {
        return text.replaceAll("[^ -~]|[\"\\\\]", " ");
    }

    private static KafkaProducer<String, String> producer(String kind) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", given[0]);
        properties.put("enable.idempotence", String.valueOf(kind.equals("idempotent") || kind.equals("transactional")));
        if (kind.equals("transactional")) properties.put("transactional.id", "java-refused-" + ProcessHandle.current().pid());
        if (kind.equals("unacknowledged")) properties.put("acks", "0");
        properties.put("delivery.timeout.ms", "30000");
        properties.put("request.timeout.ms", "10000");
        return new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
    }
}
