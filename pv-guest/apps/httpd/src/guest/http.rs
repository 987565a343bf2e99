//! One request of HTTP/1.1 on one connection.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use pv_guest::clock::timeout;
use pv_guest::net::{Error, TcpStream};

use super::volume::{Found, Volume, Wrong};

/// The longest head of a request.
const HEAD: usize = 8 * 1024;
/// Bytes of a file that are read at a time.
const PART: usize = 32 * 1024;

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    path: String,
    /// Without the content.
    head: bool,
}

/// Answers a request, and closes.
pub async fn answer(stream: TcpStream, volume: &Volume, patience: Duration) {
    // A client that is gone or slow is its own affair.
    if let Ok(Ok(())) = timeout(patience, converse(&stream, volume, patience)).await {
        _ = timeout(patience, stream.close()).await;
    }
}

async fn converse(stream: &TcpStream, volume: &Volume, patience: Duration) -> Result<(), Error> {
    let head = read_head(stream).await?;
    let request = match head.as_deref().map(parse) {
        Some(Ok(request)) => request,
        Some(Err(status)) => return refuse(stream, status).await,
        None => return refuse(stream, "431 Request Header Fields Too Large").await,
    };
    let found = match timeout(patience, volume.find(&request.path)).await {
        Ok(Ok(found)) => found,
        Ok(Err(Wrong::NotFound)) => return refuse(stream, "404 Not Found").await,
        Ok(Err(Wrong::Disk)) => return refuse(stream, "500 Internal Server Error").await,
        Err(_) => return refuse(stream, "503 Service Unavailable").await,
    };
    match found {
        Found::Directory(names) => {
            let mut text = String::new();
            for name in names {
                text += &name;
                text += "\n";
            }
            begin(stream, "200 OK", "text/plain", text.len()).await?;
            if !request.head {
                stream.write(text.as_bytes()).await?;
            }
        }
        Found::File { path, size } => {
            begin(stream, "200 OK", kind(&request.path), size).await?;
            let mut bytes = vec![0; PART];
            let mut done = 0;
            while done < size && !request.head {
                let part = &mut bytes[..PART.min(size - done)];
                if volume.read(&path, done, part).await.is_err() {
                    // The length was promised: only an end of the connection says that it is not kept.
                    return Err(Error::Closed);
                }
                stream.write(part).await?;
                done += part.len();
            }
        }
    }
    Ok(())
}

/// The head of a request; none if it is too long.
async fn read_head(stream: &TcpStream) -> Result<Option<Vec<u8>>, Error> {
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while head.len() < HEAD {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(Error::Closed);
        }
        head.extend_from_slice(&bytes[..count]);
        if let Some(end) = head.windows(4).position(|it| it == b"\r\n\r\n") {
            head.truncate(end);
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// What a request asks for, or the status that refuses it.
fn parse(head: &[u8]) -> Result<Request, &'static str> {
    const BAD: &str = "400 Bad Request";
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = core::str::from_utf8(line).map_err(|_| BAD)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD);
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(BAD);
    }
    let head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err("501 Not Implemented"),
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Ok(Request {
        path: decode(path).ok_or(BAD)?,
        head,
    })
}

/// A path without its escapes.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

async fn begin(stream: &TcpStream, status: &str, kind: &str, size: usize) -> Result<(), Error> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    );
    stream.write(head.as_bytes()).await
}

async fn refuse(stream: &TcpStream, status: &str) -> Result<(), Error> {
    let text = format!("{status}\n");
    begin(stream, status, "text/plain", text.len()).await?;
    stream.write(text.as_bytes()).await
}

/// The kind of a file by its name.
fn kind(path: &str) -> &'static str {
    let end = path.rsplit('.').next().unwrap_or_default();
    let is = |it: &str| end.eq_ignore_ascii_case(it);
    if path.ends_with('/') || is("html") || is("htm") {
        "text/html; charset=utf-8"
    } else if is("txt") || is("md") {
        "text/plain; charset=utf-8"
    } else if is("css") {
        "text/css"
    } else if is("js") {
        "text/javascript"
    } else if is("json") {
        "application/json"
    } else if is("svg") {
        "image/svg+xml"
    } else if is("png") {
        "image/png"
    } else if is("jpg") || is("jpeg") {
        "image/jpeg"
    } else {
        "application/octet-stream"
    }
}
