// Runs main methods of stock tools one after the other in one JVM, with exit trapped: a JVM of its own for each would
// cost minutes. The file of the first argument has one command a line, words divided by tabs: a name, what is on its
// standard input, the main class (the first that there is of several, divided by "|"), its arguments. One that lasts
// longer than the second argument in milliseconds is given up. Prints one JSON line for each: name, exit code, output,
// errors, milliseconds.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.FileReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.common.utils.Exit;

public final class Tools {
    private static final int NONE = Integer.MIN_VALUE;
    // The first one counts: some tools catch what ends them here.
    private static final AtomicInteger CODE = new AtomicInteger(NONE);
    // What a tool wants done at the end of its JVM, e.g. to flush its producer.
    private static final List<Runnable> HOOKS = new ArrayList<>();

    // Where output goes now. Some tools and their logging keep the stream that they meet first.
    private static final class Switch extends OutputStream {
        volatile OutputStream into = new ByteArrayOutputStream();

        @Override
        public void write(int each) throws IOException {
            into.write(each);
        }

        @Override
        public void write(byte[] bytes, int from, int count) throws IOException {
            into.write(bytes, from, count);
        }
    }

    private static final class Ended extends Error {
        Ended() {
            super("", null, false, false);
        }

        // Tools that catch everything tell what they caught.
        @Override
        public void printStackTrace() {}

        @Override
        public String toString() {
            return "";
        }
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = System.out;
        InputStream none = System.in;
        Switch outSwitch = new Switch();
        Switch errSwitch = new Switch();
        System.setOut(new PrintStream(outSwitch, true));
        System.setErr(new PrintStream(errSwitch, true));
        long deadline = Long.parseLong(arguments[1]);
        Exit.setExitProcedure(Tools::exit);
        Exit.setHaltProcedure(Tools::exit);
        Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
        try (BufferedReader script = new BufferedReader(new FileReader(arguments[0], StandardCharsets.UTF_8))) {
            for (String line = script.readLine(); line != null; line = script.readLine()) {
                String[] words = line.split("\t", -1);
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                ByteArrayOutputStream err = new ByteArrayOutputStream();
                outSwitch.into = out;
                errSwitch.into = err;
                System.setIn(new ByteArrayInputStream(words[1].replace("\\n", "\n").getBytes(StandardCharsets.UTF_8)));
                long begin = System.nanoTime();
                int code = run(words[2], Arrays.copyOfRange(words, 3, words.length), deadline);
                long milliseconds = (System.nanoTime() - begin) / 1_000_000;
                answers.println(String.format(
                    "{\"name\":%s,\"code\":%d,\"out\":%s,\"err\":%s,\"milliseconds\":%d}",
                    json(words[0]), code, json(out.toString()), json(err.toString()), milliseconds));
                answers.flush();
            }
        }
        System.setIn(none);
        Runtime.getRuntime().halt(0);
    }

    private static void exit(int code, String message) {
        CODE.compareAndSet(NONE, code);
        throw new Ended();
    }

    // 124 where it does not end, as timeout(1) says.
    private static int run(String name, String[] arguments, long deadline) throws Exception {
        CODE.set(NONE);
        HOOKS.clear();
        Thread tool = new Thread(() -> {
            try {
                find(name).getMethod("main", String[].class).invoke(null, (Object) arguments);
            } catch (InvocationTargetException thrown) {
                if (thrown.getCause() instanceof Ended) return;
                thrown.getCause().printStackTrace();
                CODE.compareAndSet(NONE, 1);
            } catch (ReflectiveOperationException error) {
                error.printStackTrace();
                CODE.compareAndSet(NONE, 125);
            }
        });
        tool.start();
        tool.join(deadline);
        if (tool.isAlive()) {
            tool.interrupt();
            return 124;
        }
        HOOKS.forEach(Runnable::run);
        CODE.compareAndSet(NONE, 0);
        return CODE.get();
    }

    private static Class<?> find(String names) throws ClassNotFoundException {
        for (String name : names.split("\\|")) {
            try {
                return Class.forName(name);
            } catch (ClassNotFoundException absent) {
                continue;
            }
        }
        throw new ClassNotFoundException(names);
    }

    private static String json(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char each : text.toCharArray()) {
            if (each == '"' || each == '\\') out.append('\\').append(each);
            else if (each < ' ') out.append(String.format("\\u%04x", (int) each));
            else out.append(each);
        }
        return out.append('"').toString();
    }
}
