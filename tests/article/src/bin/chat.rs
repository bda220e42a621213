//! The chat: a bounded broadcast channel, and two tasks for each connection, with the faults of a
//! first draft. They are left in, since the course shows them and `wslessons check` finds them.
//!
//!     chat PORT
//!
//! The first message is the name. A receiver that has lagged ends its task, so its client hears
//! nothing any more; whoever has the sender's name is left out with the sender; nobody is kept from
//! the name `system`; and `/quit` drops the connection without a Close frame.

use article::{Line, CAPACITY};
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, sync::broadcast};
use tokio_tungstenite::{accept_async, tungstenite::Error, tungstenite::Message};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (lines, _) = broadcast::channel(CAPACITY);
    let listener = article::listen().await?;
    loop {
        let (stream, address) = listener.accept().await?;
        let lines = lines.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, lines).await {
                eprintln!("{address}: {error}");
            }
        });
    }
}

async fn serve(stream: TcpStream, lines: broadcast::Sender<Line>) -> Result<(), Error> {
    let (mut write, mut read) = accept_async(stream).await?.split();
    // Before the name is known: a line may come before the welcome.
    let mut receiver = lines.subscribe();
    let name = match read.next().await {
        Some(Ok(Message::Text(text))) => text.trim().to_owned(),
        _ => return Ok(()),
    };
    write.send(Message::text(format!("Welcome, {name}!"))).await?;
    let _ = lines.send(Line::about(&name, "joined"));

    let hearer = name.clone();
    let mut hearing = tokio::spawn(async move {
        while let Ok(line) = receiver.recv().await {
            if line.is_for(&hearer) && write.send(Message::text(line.text)).await.is_err() {
                return;
            }
        }
        // An error ends it, and lagging is one. The connection stays, deaf.
        std::future::pending::<()>().await;
    });

    loop {
        tokio::select! {
            _ = &mut hearing => break,
            message = read.next() => match message {
                Some(Ok(Message::Text(text))) => match text.trim() {
                    "/quit" => break,
                    "" => {}
                    text => drop(lines.send(Line::said(&name, text))),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    hearing.abort();
    let _ = lines.send(Line::about(&name, "left"));
    Ok(())
}
