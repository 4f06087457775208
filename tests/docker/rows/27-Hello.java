import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** Threads, memory and the collector at work. */
public class Hello {
    public static void main(String[] arguments) throws Exception {
        AtomicLong sum = new AtomicLong();
        var threads = Executors.newFixedThreadPool(4);
        for (int i = 1; i <= 100; i++) {
            byte[] block = new byte[i * 10_000];
            int number = i;
            threads.submit(() -> sum.addAndGet(number + block[0]));
        }
        threads.shutdown();
        System.out.println(threads.awaitTermination(1, TimeUnit.MINUTES) + " " + sum.get());
        System.out.println(Runtime.getRuntime().maxMemory() < 512L << 20);
    }
}
