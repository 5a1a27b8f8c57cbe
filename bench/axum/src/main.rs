//! An ingest with axum and rdkafka, with which EmoStream's ingest is compared. It sends a record for each reaction, and
//! responds before the record is stored.

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Deserialize, Serialize)]
struct Reaction {
    user_id: String,
    emoji_type: String,
    timestamp: u64,
    room: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    Many(Vec<Reaction>),
    One(Reaction),
}

#[derive(Clone)]
struct Service {
    producer: FutureProducer,
    topic: String,
}

async fn post_reactions(State(service): State<Service>, Json(body): Json<Body>) -> (StatusCode, Json<Value>) {
    let reactions = match body {
        Body::Many(reactions) => reactions,
        Body::One(reaction) => vec![reaction],
    };
    for reaction in &reactions {
        let Ok(value) = serde_json::to_vec(reaction) else {
            return (StatusCode::BAD_REQUEST, Json(json!({})));
        };
        let record = FutureRecord::to(&service.topic).key(&reaction.room).payload(&value);
        if service.producer.send_result(record).is_err() {
            return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({})));
        }
    }
    (StatusCode::ACCEPTED, Json(json!({ "accepted": reactions.len() })))
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (brokers, topic) = (args.next().expect("brokers"), args.next().expect("topic"));
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "100")
        .set("compression.codec", "lz4")
        .set("queue.buffering.max.messages", "2000000")
        .create()
        .expect("a producer");
    let service = Service { producer, topic };
    let app = Router::new().route("/", post(post_reactions)).with_state(service);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening {}", listener.local_addr().expect("an address"));
    axum::serve(listener, app).await.expect("a server");
}
