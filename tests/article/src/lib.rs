//! What the article's servers share.

use tokio::net::TcpListener;

/// Lines that the chat's channel keeps for those who read slowly.
pub const CAPACITY: usize = 100;

/// A line of the chat, and who said it, who does not hear it.
#[derive(Clone, Debug)]
pub struct Line {
    pub sender: Option<String>,
    pub text: String,
}

impl Line {
    /// What somebody said.
    pub fn said(name: &str, text: &str) -> Self {
        Self { sender: Some(name.into()), text: format!("[{name}] {text}") }
    }

    /// What happened to somebody, for all.
    pub fn about(name: &str, what: &str) -> Self {
        Self { sender: None, text: format!("[system] >>> {name} {what} the chat") }
    }

    /// Whether somebody of this name hears it: two of one name do not hear each other.
    pub fn is_for(&self, name: &str) -> bool {
        self.sender.as_deref() != Some(name)
    }
}

/// Listen on the port that the command line names, on loopback, and say where.
pub async fn listen() -> std::io::Result<TcpListener> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "8080".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("ws://{}", listener.local_addr()?);
    Ok(listener)
}
