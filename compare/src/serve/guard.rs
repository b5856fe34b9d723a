//! Who may ask: whoever has the token, from the page itself.
//!
//! The token isn't kept in a cookie. Cookies know no ports, and the instances on this page publish
//! web servers on other ports of the same host: one look at such a server would hand it the cookie.
//! The page keeps the token in its session storage, which belongs to one port, and sends it in a
//! header, which no other page can.

use std::io;
use std::net::SocketAddr;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// Random bytes of the token.
const TOKEN_BYTES: usize = 32;

/// The token, and the names that the server goes by.
pub(super) struct Guard {
    token: String,
    address: SocketAddr,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It's for another host: a name that somebody else points here.
    Host,
    /// It comes from another page.
    Origin,
    /// It has no token, or a wrong one.
    Token,
}

impl Refusal {
    /// Why, for people.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Host => "this server doesn't go by that host name",
            Self::Origin => "requests of other pages are refused",
            Self::Token => "the token is missing or wrong: use the address that vmctl has printed",
        }
    }
}

impl Guard {
    /// Makes a token.
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
        }
        let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { token, address })
    }

    /// The token, in hexadecimal digits.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Host and port, as a browser names them.
    pub(super) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Checks where a request is going and where it comes from.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(super) fn check_place(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).ok_or(Refusal::Host)?;
        if hosts.next().is_some() || !self.is_own_host(host) {
            return Err(Refusal::Host);
        }
        for origin in headers.get_all(header::ORIGIN) {
            let own = origin.to_str().is_ok_and(|origin| origin == format!("http://{host}"));
            if !own {
                return Err(Refusal::Origin);
            }
        }
        Ok(())
    }

    /// Checks that a request comes from a script of the page's, where the browser says so.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(super) fn check_site(headers: &HeaderMap) -> Result<(), Refusal> {
        let foreign =
            headers.get_all("sec-fetch-site").iter().any(|site| site.as_bytes() != b"same-origin");
        if foreign { Err(Refusal::Origin) } else { Ok(()) }
    }

    /// Checks the header of the token.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(super) fn check_header(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or(Refusal::Token)?;
        let token = value.as_bytes().strip_prefix(b"Bearer ").ok_or(Refusal::Token)?;
        if values.next().is_some() || !self.is_token(token) {
            return Err(Refusal::Token);
        }
        Ok(())
    }

    /// Checks the token in the page's address.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(super) fn check_query(&self, query: Option<&str>) -> Result<(), Refusal> {
        let token = query.and_then(|query| query.strip_prefix("token=")).ok_or(Refusal::Token)?;
        if self.is_token(token.as_bytes()) { Ok(()) } else { Err(Refusal::Token) }
    }

    /// Compares in a time that tells nothing of how much is right.
    fn is_token(&self, token: &[u8]) -> bool {
        self.token.as_bytes().ct_eq(token).into()
    }

    fn is_own_host(&self, host: &str) -> bool {
        // A browser leaves out the port that it would take anyway.
        let with_port = if self.address.port() == 80 && host.parse::<SocketAddr>().is_err() {
            format!("{host}:80")
        } else {
            host.to_owned()
        };
        if !self.address.ip().is_unspecified() {
            return with_port == self.address.to_string();
        }
        // On all addresses: any of them, but no name, as anybody can point one here.
        with_port.parse::<SocketAddr>().is_ok_and(|host| host.port() == self.address.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str) -> Guard {
        Guard::new(address.parse().unwrap()).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let (one, other) = (guard("127.0.0.1:1"), guard("127.0.0.1:1"));
        assert_eq!(one.token().len(), 64);
        assert_ne!(one.token(), other.token());
    }

    #[test]
    fn only_the_bound_address_is_its_host() {
        let guard = guard("127.0.0.1:8080");
        let check = |host| guard.check_place(&headers(&[("host", host)]));
        assert_eq!(check("127.0.0.1:8080"), Ok(()));
        for host in ["127.0.0.1", "127.0.0.1:80", "localhost:8080", "evil.test:8080", ""] {
            assert_eq!(check(host), Err(Refusal::Host), "{host:?}");
        }
        assert_eq!(guard.check_place(&headers(&[])), Err(Refusal::Host));
        let twice = headers(&[("host", "127.0.0.1:8080"), ("host", "127.0.0.1:8080")]);
        // `collect` keeps the last of the two only; a second one has to be appended.
        let mut appended = twice;
        appended.append("host", "evil.test".parse().unwrap());
        assert_eq!(guard.check_place(&appended), Err(Refusal::Host));
    }

    #[test]
    fn port_80_may_be_left_out() {
        let guard = guard("127.0.0.1:80");
        assert_eq!(guard.check_place(&headers(&[("host", "127.0.0.1")])), Ok(()));
        assert_eq!(guard.check_place(&headers(&[("host", "127.0.0.1:80")])), Ok(()));
        assert_eq!(guard.check_place(&headers(&[("host", "evil.test")])), Err(Refusal::Host));
    }

    #[test]
    fn on_all_addresses_a_name_is_refused_and_an_address_is_not() {
        let guard = guard("0.0.0.0:8080");
        let check = |host| guard.check_place(&headers(&[("host", host)]));
        assert_eq!(check("192.0.2.7:8080"), Ok(()));
        assert_eq!(check("192.0.2.7:8081"), Err(Refusal::Host));
        assert_eq!(check("rebound.test:8080"), Err(Refusal::Host));
    }

    #[test]
    fn other_origins_and_sites_are_refused() {
        let guard = guard("127.0.0.1:8080");
        let check =
            |origin| guard.check_place(&headers(&[("host", "127.0.0.1:8080"), ("origin", origin)]));
        assert_eq!(check("http://127.0.0.1:8080"), Ok(()));
        for origin in ["null", "https://127.0.0.1:8080", "http://127.0.0.1:8081", "http://evil"] {
            assert_eq!(check(origin), Err(Refusal::Origin), "{origin}");
        }
        let site = |site| Guard::check_site(&headers(&[("sec-fetch-site", site)]));
        assert_eq!(site("same-origin"), Ok(()));
        assert_eq!(site("same-site"), Err(Refusal::Origin));
        assert_eq!(site("cross-site"), Err(Refusal::Origin));
    }

    #[test]
    fn no_part_of_the_token_is_enough() {
        let guard = guard("127.0.0.1:8080");
        let token = guard.token().to_owned();
        assert_eq!(guard.check_query(Some(&format!("token={token}"))), Ok(()));
        for query in [
            None,
            Some(String::new()),
            Some("token=".to_owned()),
            Some(format!("token={}", &token[1..])),
            Some(format!("token={token}0")),
            Some(format!("token={}", token.to_uppercase() + "x")),
        ] {
            assert_eq!(guard.check_query(query.as_deref()), Err(Refusal::Token), "{query:?}");
        }
        let header = |value: &str| guard.check_header(&headers(&[("authorization", value)]));
        assert_eq!(header(&format!("Bearer {token}")), Ok(()));
        assert_eq!(header(&token), Err(Refusal::Token));
        assert_eq!(header("Bearer "), Err(Refusal::Token));
    }
}
