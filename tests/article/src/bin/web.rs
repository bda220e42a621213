//! The chat and its page on one port: HTTP and WebSocket by axum.
//!
//!     web PORT FOLDER
//!
//! FOLDER has the page: `index.html` and what it loads from `static/`. A client that offers the
//! subprotocol `chat.v1+json` exchanges typed events (see `wslessons/chat/events.py`), any other
//! one plain lines. Here whoever lags is told how much is gone, and people are told apart by their
//! connection, not by name.
//!
//! Not handled here: tickets (any will do), resuming, and a `say` that is repeated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use article::CAPACITY;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use futures_util::{SinkExt, StreamExt};
use serde_json::{json, Value};
use tokio::sync::broadcast::{self, error::RecvError};

const SUBPROTOCOL: &str = "chat.v1+json";

/// An event of the room: its JSON, the line that it is in plain text, and whose it is.
#[derive(Clone)]
struct Event {
    json: Value,
    line: String,
    connection: u64,
}

struct Room {
    events: broadcast::Sender<Event>,
    folder: PathBuf,
    epoch: String,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    offset: u64,
    connections: u64,
    people: BTreeMap<u64, String>,
}

impl Room {
    /// Give an event its number and tell all; under the lock, so that all have one order.
    fn tell(&self, log: &mut Log, connection: u64, mut json: Value, line: String) {
        log.offset += 1;
        json["offset"] = log.offset.into();
        json["time"] = now().into();
        let _ = self.events.send(Event { json, line, connection });
    }

    fn say(&self, connection: u64, name: &str, text: &str, id: &str) {
        let json = json!({"type": "message", "sender": name, "text": text, "id": id});
        self.tell(&mut self.log.lock().unwrap(), connection, json, format!("[{name}] {text}"));
    }

    fn come_or_go(&self, log: &mut Log, connection: u64, name: &str, what: &str) {
        let json = json!({"type": what, "name": name});
        self.tell(log, connection, json, format!("[system] >>> {name} {what} the chat"));
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(2).unwrap_or_else(|| ".".into()).into();
    let (events, _) = broadcast::channel(CAPACITY);
    let room = Room { events, folder, epoch: now().to_string(), log: Mutex::default() };
    let app = Router::new()
        .route("/", get(|room: State<Arc<Room>>| file(room, Path("index.html".into()))))
        .route("/static/{name}", get(file))
        .route("/ticket", post(|| async { r#"{"ticket": "any", "expires_in": 60}"# }))
        .route("/ws", get(upgrade))
        .with_state(Arc::new(room));
    axum::serve(article::listen().await?, app).await
}

async fn file(State(room): State<Arc<Room>>, Path(name): Path<String>) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    // A path of one part, so it can't lead out of the folder.
    match std::fs::read(room.folder.join(name)) {
        Ok(body) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn upgrade(State(room): State<Arc<Room>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.protocols([SUBPROTOCOL]).on_upgrade(|socket| serve(socket, room))
}

async fn serve(mut socket: WebSocket, room: Arc<Room>) {
    let typed = socket.protocol().is_some();
    let Some(Ok(Message::Text(first))) = socket.recv().await else { return };
    let name = match serde_json::from_str::<Value>(&first) {
        Ok(hello) if typed => hello["name"].as_str().unwrap_or_default().trim().to_owned(),
        _ => first.trim().to_owned(),
    };

    // What comes after the welcome's number is heard, and nothing twice.
    let (me, mut receiver, welcome) = {
        let mut log = room.log.lock().unwrap();
        log.connections += 1;
        let me = log.connections;
        let receiver = room.events.subscribe();
        let people: Vec<_> = log.people.values().cloned().collect();
        let welcome = json!({"type": "welcome", "name": name, "room": "/", "epoch": room.epoch,
            "offset": log.offset, "count": people.len(), "people": people});
        log.people.insert(me, name.clone());
        room.come_or_go(&mut log, me, &name, "joined");
        (me, receiver, welcome)
    };
    let mut seen = welcome["offset"].as_u64().unwrap_or_default();
    let welcome = if typed { welcome.to_string() } else { format!("Welcome, {name}!") };
    let (mut write, mut read) = socket.split();
    let mut told = write.send(Message::text(welcome)).await;

    while told.is_ok() {
        let text = tokio::select! {
            event = receiver.recv() => match event {
                Ok(event) => {
                    seen = event.json["offset"].as_u64().unwrap_or(seen);
                    written(&event, me, typed)
                }
                Err(RecvError::Lagged(count)) => {
                    seen += count;
                    let missed = json!({"type": "missed", "count": count, "offset": seen});
                    Some(if typed { missed.to_string() } else { format!("[system] missed {count}") })
                }
                Err(RecvError::Closed) => break,
            },
            message = read.next() => match message {
                Some(Ok(Message::Text(text))) if typed => answer(&room, me, &name, &text),
                Some(Ok(Message::Text(text))) => {
                    if !text.trim().is_empty() {
                        room.say(me, &name, text.trim(), "");
                    }
                    None
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => None,
            },
        };
        if let Some(text) = text {
            told = write.send(Message::text(text)).await;
        }
    }
    let mut log = room.log.lock().unwrap();
    log.people.remove(&me);
    room.come_or_go(&mut log, me, &name, "left");
}

/// Return what a connection is told of an event: of its own message, that it is in the log.
fn written(event: &Event, me: u64, typed: bool) -> Option<String> {
    let mine = event.connection == me && event.json["type"] == "message";
    match (typed, mine) {
        (true, true) => {
            let json = &event.json;
            let ack = json!({"type": "ack", "id": json["id"], "offset": json["offset"], "time": json["time"]});
            Some(ack.to_string())
        }
        (true, false) => Some(event.json.to_string()),
        (false, true) => None,
        (false, false) => Some(event.line.clone()),
    }
}

/// Do what a typed message asks for; return what is to be said at once.
fn answer(room: &Room, me: u64, name: &str, text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    match message["type"].as_str() {
        Some("say") => {
            let (text, id) = (message["text"].as_str()?, message["id"].as_str()?);
            room.say(me, name, text, id);
            None
        }
        Some("ping") => Some(json!({"type": "pong", "id": message["id"]}).to_string()),
        Some("who") => {
            let log = room.log.lock().unwrap();
            let people: Vec<_> = log.people.values().collect();
            Some(json!({"type": "roster", "people": people, "count": people.len()}).to_string())
        }
        _ => {
            let text = "this is no message that is known here";
            Some(json!({"type": "error", "code": "unknown", "text": text, "id": ""}).to_string())
        }
    }
}
