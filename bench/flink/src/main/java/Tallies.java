import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
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
 * Counts plain JSON reactions by room and emoji in windows of 2 s, exactly once, and writes each count
 * when its window has closed: {@code start room emoji count}.
 *
 * <p>Arguments: brokers, input topic, output topic, (ignored), lateness in milliseconds.
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

    Configuration settings = new Configuration();
    settings.setString("execution.checkpointing.storage", "jobmanager");
    StreamExecutionEnvironment environment =
        StreamExecutionEnvironment.createLocalEnvironment(1, settings);
    environment.enableCheckpointing(CHECKPOINT_MS, CheckpointingMode.EXACTLY_ONCE);
    environment.getConfig().enableObjectReuse();

    KafkaSource<Tuple3<String, String, Long>> reactions =
        KafkaSource.<Tuple3<String, String, Long>>builder()
            .setBootstrapServers(brokers)
            .setTopics(input)
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new Reactions())
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
        .fromSource(
            reactions,
            WatermarkStrategy.<Tuple3<String, String, Long>>forBoundedOutOfOrderness(lateness),
            "reactions")
        .keyBy(
            reaction -> reaction.f0 + " " + reaction.f1,
            Types.STRING)
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

  /** Room and emoji. The event time is the timestamp of the record. */
  private static final class Reactions
      implements KafkaRecordDeserializationSchema<Tuple3<String, String, Long>> {
    @Override
    public void deserialize(
        ConsumerRecord<byte[], byte[]> record, Collector<Tuple3<String, String, Long>> out)
        throws java.io.IOException {
      JsonNode reaction = JSON.readTree(record.value());
      out.collect(
          Tuple3.of(
              reaction.get("room").textValue(), reaction.get("emoji_type").textValue(), 1L));
    }

    @Override
    public TypeInformation<Tuple3<String, String, Long>> getProducedType() {
      return Types.TUPLE(Types.STRING, Types.STRING, Types.LONG);
    }
  }

  private static final class Count
      implements AggregateFunction<Tuple3<String, String, Long>, Long, Long> {
    @Override
    public Long createAccumulator() {
      return 0L;
    }

    @Override
    public Long add(Tuple3<String, String, Long> reaction, Long count) {
      return count + reaction.f2;
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
