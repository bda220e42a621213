//! The client for the terminal: lines of stdin are said, what is heard goes to stdout.
//!
//!     client URL NAME

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_tungstenite::{connect_async, tungstenite::Error, tungstenite::Message};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let [_, url, name] = std::env::args().collect::<Vec<_>>().try_into().unwrap_or_else(|_| {
        eprintln!("usage: client URL NAME");
        std::process::exit(2)
    });
    let (connection, _) = connect_async(url).await?;
    let (mut write, mut read) = connection.split();
    write.send(Message::text(name)).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line.map_err(Error::Io)? {
                // It says so, and does not wait for what the server answers.
                Some(line) if line.trim() == "/quit" => return write.close().await,
                Some(line) => write.send(Message::text(line)).await?,
                None => return write.close().await,
            },
            message = read.next() => match message {
                Some(Ok(Message::Text(text))) => println!("{text}"),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
}
