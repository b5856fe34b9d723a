//! HTTP/1.1, as little of it as a measurement needs: a server for images without one, and a client
//! for any server.

mod connect;
mod load;
mod response;
mod server;

pub use connect::{Answer, connect, connect_while};
pub use load::{web_client, web_client_while};
pub use server::web_server;

/// The longest head of a request or an answer.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most header lines.
const MAX_HEADERS: usize = 64;

/// Checks what is asked for: it's put into the request as it is.
fn check_path(path: &str) -> Result<(), crate::ProbeError> {
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path && path.len() <= 4096 {
        Ok(())
    } else {
        Err(crate::ProbeError::Argument(format!("{path:?} is no path of a URL")))
    }
}

#[cfg(test)]
mod tests;
