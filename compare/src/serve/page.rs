//! The page: one document with its style and script in it, always the same.
//!
//! Nothing that an instance or an image says is ever put into it here: the script asks for that, and
//! shows it as text.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("../../../resources/live/page.html");
const STYLE: &str = include_str!("../../../resources/live/live.css");
const SCRIPTS: [&str; 3] = [
    include_str!("../../../resources/live/terminal.js"),
    include_str!("../../../resources/live/stream.js"),
    include_str!("../../../resources/live/live.js"),
];
const REFUSED: &str = include_str!("../../../resources/live/refused.html");
const RESUME: &str = include_str!("../../../resources/live/resume.js");

/// A document, and the policy that lets its own script and style run, and nothing else.
pub(super) struct Document {
    pub(super) html: String,
    pub(super) policy: String,
}

/// The page.
pub(super) static LIVE: LazyLock<Document> =
    LazyLock::new(|| document(PAGE, STYLE, &SCRIPTS.concat()));

/// What's shown to whoever has no token. If the page was just reloaded, its script finds the token
/// in the session storage, and goes on.
pub(super) static NO_TOKEN: LazyLock<Document> = LazyLock::new(|| document(REFUSED, STYLE, RESUME));

fn document(html: &str, style: &str, script: &str) -> Document {
    let html = html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script);
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(script),
        hash(style)
    );
    Document { html, policy }
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_whole_and_end_no_element_early() {
        for document in [&*LIVE, &*NO_TOKEN] {
            assert!(!document.html.contains("/*STYLE*/") && !document.html.contains("/*SCRIPT*/"));
            assert_eq!(document.html.matches("</script").count(), 1);
            assert_eq!(document.html.matches("</style").count(), 1);
        }
    }

    #[test]
    fn script_puts_nothing_into_the_page_as_markup() {
        for script in SCRIPTS.iter().chain([&RESUME]) {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "DOMParser",
            ] {
                assert!(!script.contains(way), "{way}");
            }
        }
    }
}
