import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.StringTokenizer;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.Suppressed.BufferConfig;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Counts plain JSON reactions by room and emoji, or the words of lines of text, in windows of 2 s, exactly
 * once, and writes each count when its window has closed: key {@code start room emoji} or {@code start word},
 * value the count.
 *
 * <p>Arguments: brokers, input topic, output topic, state directory, grace in milliseconds, and
 * {@code reactions} or {@code words}.
 */
public final class Tallies {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final Duration WINDOW = Duration.ofSeconds(2);
  /** Value of a word in the repartition topic. It is not null, since a record without a value is not counted. */
  private static final byte[] NO_VALUE = new byte[0];

  public static void main(String[] arguments) throws Exception {
    String brokers = arguments[0];
    String input = arguments[1];
    String output = arguments[2];
    Duration grace = Duration.ofMillis(Long.parseLong(arguments[4]));
    boolean words = arguments[5].equals("words");

    StreamsBuilder builder = new StreamsBuilder();
    KStream<byte[], byte[]> records =
        builder.stream(input, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()));
    Grouped<String, byte[]> grouped = Grouped.with(Serdes.String(), Serdes.ByteArray());
    KGroupedStream<String, byte[]> keyed = words
        ? records.flatMap((key, value) -> words(value)).groupByKey(grouped)
        : records.groupBy((key, value) -> roomAndEmoji(value), grouped);
    keyed
        .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, grace))
        .count(Materialized.<String, Long, WindowStore<Bytes, byte[]>>as("tallies")
            .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
        .suppress(Suppressed.untilWindowCloses(BufferConfig.unbounded()))
        .toStream((key, count) -> key.window().start() + " " + key.key())
        .mapValues(count -> Long.toString(count))
        .to(output, Produced.with(Serdes.String(), Serdes.String()));

    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, output);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[3]);
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.producerPrefix("compression.type"), "lz4");

    KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    streams.setStateListener((state, before) -> {
      if (state == KafkaStreams.State.RUNNING) {
        System.out.println("running");
      }
    });
    streams.start();
    // Runs until standard input is closed.
    while (System.in.read() >= 0) {}
    streams.close(Duration.ofSeconds(5));
  }

  private static List<KeyValue<String, byte[]>> words(byte[] line) {
    List<KeyValue<String, byte[]>> words = new ArrayList<>();
    StringTokenizer tokens = new StringTokenizer(new String(line, StandardCharsets.UTF_8));
    while (tokens.hasMoreTokens()) {
      words.add(KeyValue.pair(tokens.nextToken(), NO_VALUE));
    }
    return words;
  }

  private static String roomAndEmoji(byte[] value) {
    try {
      JsonNode reaction = JSON.readTree(value);
      return reaction.get("room").textValue() + " " + reaction.get("emoji_type").textValue();
    } catch (IOException malformed) {
      return "malformed ?";
    }
  }
}
