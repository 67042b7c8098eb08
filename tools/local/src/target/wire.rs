//! Faults of a target on the wire, below HTTP or against it.

use std::{fmt, io, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use crate::server::end_with;

/// Between two bytes, or two pieces of something endless.
const PAUSE: Duration = Duration::from_millis(300);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n";
const LARGE_BYTES: usize = 10 * 1024 * 1024;
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// A way to break a connection, or the rules of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset while the request is still arriving, unread.
    ResetUnread,
    /// The connection is reset when the request has been read.
    Reset,
    /// A 200 whose bytes come one by one, so that the status is there only after a minute.
    Trickle,
    /// Bytes that are no HTTP.
    Garbage,
    /// A length of the body that is no number.
    BadLength,
    /// Headers without end, as fast as they are taken.
    EndlessHeaders,
    /// A 200 whose body ends long before the length that it announced.
    Short,
    /// A 200 with a body of 10 MiB.
    Large,
    /// A 200 whose body comes bit by bit and never ends.
    EndlessBody,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ResetUnread,
        Self::Reset,
        Self::Trickle,
        Self::Garbage,
        Self::BadLength,
        Self::EndlessHeaders,
        Self::Short,
        Self::Large,
        Self::EndlessBody,
    ];

    /// Text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResetUnread => "reset-unread",
            Self::Reset => "reset",
            Self::Trickle => "trickle",
            Self::Garbage => "garbage",
            Self::BadLength => "bad-length",
            Self::EndlessHeaders => "endless-headers",
            Self::Short => "short",
            Self::Large => "large",
            Self::EndlessBody => "endless-body",
        }
    }

    /// The status that the target means to give, and that it takes the event for delivered by.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Self::Trickle | Self::Short | Self::Large | Self::EndlessBody => Some(200),
            Self::ResetUnread
            | Self::Reset
            | Self::Garbage
            | Self::BadLength
            | Self::EndlessHeaders => None,
        }
    }

    /// Does it, with a connection on which a request has come.
    pub(super) async fn happen(self, mut stream: TcpStream) {
        // An error is a client that went away, as it should.
        let _ = match self {
            Self::ResetUnread | Self::Reset => stream.set_zero_linger(),
            Self::Trickle => trickle(&mut stream).await,
            Self::Garbage => end_with(stream, b"\x16\x03\x01 what is this? \xff\r\n\r\n").await,
            Self::BadLength => {
                end_with(stream, &[OK, b"content-length: many\r\n\r\nok"].concat()).await
            }
            Self::Short => {
                end_with(stream, &[OK, b"content-length: 1000\r\n\r\nok"].concat()).await
            }
            Self::EndlessHeaders => endless_headers(&mut stream).await,
            Self::Large => large(stream).await,
            Self::EndlessBody => endless_body(&mut stream).await,
        };
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

async fn trickle(stream: &mut TcpStream) -> io::Result<()> {
    for byte in [OK, b"content-length: 2\r\n\r\nok"].concat() {
        stream.write_all(&[byte]).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn endless_headers(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(OK).await?;
    loop {
        stream.write_all(b"x-filler: ").await?;
        stream.write_all(&PIECE[..1024]).await?;
        stream.write_all(b"\r\n").await?;
    }
}

async fn large(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(OK).await?;
    stream
        .write_all(format!("content-length: {LARGE_BYTES}\r\n\r\n").as_bytes())
        .await?;
    for _ in 0..LARGE_BYTES / PIECE.len() {
        stream.write_all(&PIECE).await?;
    }
    end_with(stream, b"").await
}

async fn endless_body(stream: &mut TcpStream) -> io::Result<()> {
    stream
        .write_all(&[OK, b"transfer-encoding: chunked\r\n\r\n"].concat())
        .await?;
    loop {
        stream.write_all(b"4\r\nmore\r\n").await?;
        sleep(PAUSE).await;
    }
}
