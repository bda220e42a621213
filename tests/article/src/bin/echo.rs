//! The echo: each message comes back, text with `Echo: ` before it.
//!
//!     echo PORT

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{accept_async, tungstenite::Message};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = article::listen().await?;
    loop {
        let (stream, address) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = echo(stream).await {
                eprintln!("{address}: {error}");
            }
        });
    }
}

async fn echo(stream: TcpStream) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let (mut write, mut read) = accept_async(stream).await?.split();
    while let Some(message) = read.next().await {
        match message? {
            Message::Text(text) => write.send(Message::text(format!("Echo: {text}"))).await?,
            binary @ Message::Binary(_) => write.send(binary).await?,
            // The library answers pings and the close by itself.
            _ => {}
        }
    }
    Ok(())
}
