import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.StringTokenizer;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * Counts plain JSON reactions by room and emoji, or the words of lines of text, in windows of 2 s, exactly
 * once, and writes each count when its window has closed: {@code start room emoji count} or
 * {@code start word count}.
 *
 * <p>Arguments: brokers, input topic, output topic, (ignored), lateness in milliseconds, and
 * {@code reactions} or {@code words}.
 */
public final class Tallies {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final Duration WINDOW = Duration.ofSeconds(2);
  /** Interval of checkpoints: finals become visible about as soon as those of EmoStream. */
  private static final long CHECKPOINT_MS = 500;

  public static void main(String[] arguments) throws Exception {
    String brokers = arguments[0];
    String input = arguments[1];
    String output = arguments[2];
    Duration lateness = Duration.ofMillis(Long.parseLong(arguments[4]));
    boolean words = arguments[5].equals("words");

    Configuration settings = new Configuration();
    settings.setString("execution.checkpointing.storage", "jobmanager");
    StreamExecutionEnvironment environment =
        StreamExecutionEnvironment.createLocalEnvironment(1, settings);
    environment.enableCheckpointing(CHECKPOINT_MS, CheckpointingMode.EXACTLY_ONCE);
    environment.getConfig().enableObjectReuse();

    KafkaSource<String> keys =
        KafkaSource.<String>builder()
            .setBootstrapServers(brokers)
            .setTopics(input)
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(words ? new Words() : new Reactions())
            .setProperty("isolation.level", "read_committed")
            .build();
    KafkaSink<String> tallies =
        KafkaSink.<String>builder()
            .setBootstrapServers(brokers)
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix(output)
            .setProperty("transaction.timeout.ms", "60000")
            .setProperty("compression.type", "lz4")
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                .setTopic(output)
                .setValueSerializationSchema(
                    new org.apache.flink.api.common.serialization.SimpleStringSchema())
                .build())
            .build();
    environment
        .fromSource(keys, WatermarkStrategy.<String>forBoundedOutOfOrderness(lateness), "keys")
        .keyBy(key -> key, Types.STRING)
        .window(TumblingEventTimeWindows.of(WINDOW))
        .aggregate(new Count(), new Line())
        .sinkTo(tallies);

    JobClient job = environment.executeAsync();
    while (job.getJobStatus().get() != JobStatus.RUNNING) {
      Thread.sleep(20);
    }
    System.out.println("running");
    // Runs until standard input is closed.
    while (System.in.read() >= 0) {}
    job.cancel().get();
    System.exit(0);
  }

  /** The keys of a record, one for each event. The event time is the timestamp of the record. */
  private abstract static class Keys implements KafkaRecordDeserializationSchema<String> {
    @Override
    public TypeInformation<String> getProducedType() {
      return Types.STRING;
    }
  }

  private static final class Reactions extends Keys {
    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<String> out)
        throws IOException {
      JsonNode reaction = JSON.readTree(record.value());
      out.collect(
          reaction.get("room").textValue() + " " + reaction.get("emoji_type").textValue());
    }
  }

  private static final class Words extends Keys {
    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<String> out) {
      StringTokenizer words =
          new StringTokenizer(new String(record.value(), StandardCharsets.UTF_8));
      while (words.hasMoreTokens()) {
        out.collect(words.nextToken());
      }
    }
  }

  private static final class Count implements AggregateFunction<String, Long, Long> {
    @Override
    public Long createAccumulator() {
      return 0L;
    }

    @Override
    public Long add(String key, Long count) {
      return count + 1;
    }

    @Override
    public Long getResult(Long count) {
      return count;
    }

    @Override
    public Long merge(Long one, Long other) {
      return one + other;
    }
  }

  private static final class Line extends ProcessWindowFunction<Long, String, String, TimeWindow> {
    @Override
    public void process(
        String key, Context context, Iterable<Long> counts, Collector<String> out) {
      out.collect(context.window().getStart() + " " + key + " " + counts.iterator().next());
    }
  }
}
