//! How a registry wants to be spoken with: `WWW-Authenticate` (RFC 9110 §11.6.1), as Docker's token
//! authentication uses it.

/// What's wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where it's had.
        realm: String,
        /// Whom for.
        service: Option<String>,
        /// What for, if it's said.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The one that we follow, of a response's headers: a token's, if there's a choice.
    pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            match Self::parse(header) {
                Some(Self::Basic) => basic = Some(Self::Basic),
                Some(bearer) => return Some(bearer),
                None => {}
            }
        }
        basic
    }

    fn parse(header: &str) -> Option<Self> {
        let header = header.trim_start();
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest;
        while let Some((name, value, after)) = parameter(rest) {
            match &*name.to_ascii_lowercase() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// Takes `NAME=VALUE` or `NAME="VALUE"` off a list.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (name, rest) = text.split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(',').unwrap_or(rest.len());
        return Some((name.trim(), rest[..end].trim().to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((name.trim(), value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn token_challenge_is_read_with_its_quotes() {
        let header = r#"Bearer realm="https://auth.example/token",service="reg, \"x\"",scope="repository:a/b:pull,push""#;
        let expected = bearer(
            "https://auth.example/token",
            Some("reg, \"x\""),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(Challenge::choose([header].into_iter()), expected);
        let bare = "bearer realm=https://a/b , error=x";
        assert_eq!(Challenge::choose([bare].into_iter()), bearer("https://a/b", None, None));
    }

    #[test]
    fn token_is_preferred_to_a_password() {
        let headers = ["Basic realm=\"x\"", "Bearer realm=\"https://a\"", "Negotiate"];
        assert_eq!(Challenge::choose(headers.into_iter()), bearer("https://a", None, None));
        assert_eq!(Challenge::choose(headers[..1].iter().copied()), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for header in [
            "",
            "Bearer",
            "Bearer realm",
            "Bearer realm=\"x",
            "Bearer realm=\"\\",
            "Digest x=y",
            "Bearer service=\"ä\"",
        ] {
            assert_eq!(Challenge::choose([header].into_iter()), None, "{header}");
        }
    }
}
