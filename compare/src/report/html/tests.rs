use super::*;
use crate::model::Outcome;
use crate::testing;

/// The page's own hashes, and what they should be of.
fn between<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    page.split_once(from).unwrap().1.split_once(to).unwrap().0
}

#[test]
fn page_asks_for_nothing_from_anywhere() {
    let page = page(&testing::nginx());
    let no_names = page.replace("http://www.w3.org/2000/svg", "");
    for address in
        ["http://", "https://", "src=", "url(", "@import", "href=\"/", "<link", "<iframe"]
    {
        let at = no_names.find(address);
        assert_eq!(at, None, "{address}: {:?}", at.map(|at| &no_names[at..(at + 80)]));
    }
}

#[test]
fn row_that_no_way_has_is_in_the_list_of_all_and_has_no_chart() {
    let mut report = testing::nginx();
    let row = report.rows.iter_mut().find(|row| row.id == "start.first-byte").unwrap();
    row.title = "PROBED".to_owned();
    let places = |report: &Report| page(report).matches("PROBED").count();
    let with = places(&report);
    let row = report.rows.iter_mut().find(|row| row.title == "PROBED").unwrap();
    for cell in &mut row.cells {
        cell.outcome = Outcome::NotApplicable { reason: "it's a server".to_owned() };
    }
    assert!((1..with).contains(&places(&report)), "{} of {with}", places(&report));
    assert!(page(&report).contains("it&#39;s a server") || page(&report).contains("it's a server"));
}

#[test]
fn policy_has_the_hashes_of_the_pages_own_script_and_style_and_nothing_else() {
    let page = page(&testing::nginx());
    let policy = between(&page, "Content-Security-Policy\" content=\"", "\"");
    let policy = policy.replace("&#39;", "'");
    let style = between(&page, "<style>", "</style>");
    let script = page.rsplit_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    assert!(policy.contains(&format!("script-src {};", source(script))), "{policy}");
    assert!(policy.contains(&format!("style-src {};", source(style))), "{policy}");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
    // Neither would be allowed, and so neither is there.
    assert!(!page.contains(" style=\"") && !page.contains(" onclick=\""));
}

#[test]
fn no_text_of_an_attacker_becomes_markup() {
    let clean = page(&testing::hostile("harmless"));
    let tags = |page: &str| {
        let tag =
            |part: &str| part.split([' ', '>', '\n', '/']).next().unwrap_or_default().to_owned();
        page.split('<').skip(1).map(tag).collect::<Vec<_>>()
    };
    for payload in [
        "</script><img src=x onerror=alert(1)>",
        "</title></style><script>alert(1)</script>",
        "\"><svg onload=alert(1)>",
        "' onmouseover='alert(1)",
        "--><!--<script>",
        "]]>&lt;b&gt;",
    ] {
        let page = page(&testing::hostile(payload));
        for part in ["<img", "<script>alert", "\" onload", "<!--"] {
            assert!(!page.contains(part), "{payload}: {part}");
        }
        // The same elements as with texts that mean no harm.
        let (have, want) = (tags(&page), tags(&clean));
        let strangers = have.iter().filter(|tag| !want.contains(tag)).collect::<Vec<_>>();
        assert!(strangers.is_empty(), "{payload}: {strangers:?}");
        assert_eq!(page.matches("<script").count(), 2);
    }
}

#[test]
fn raw_data_is_the_report() {
    for report in [testing::nginx(), testing::hostile("</script><!-- \u{2028}&amp; \"quoted\"")] {
        let page = page(&report);
        let json = between(&page, "id=\"report\">", "</script>");
        assert_eq!(Report::from_json(json).unwrap(), report);
    }
}

#[test]
fn top_has_the_reports_figures() {
    let report = testing::nginx();
    let page = page(&report);
    let idea = between(&page, "<section class=\"idea\"", "</section>");
    let median = |row: &str, way| {
        let row = report.row(row).unwrap();
        crate::report::quantity::quantity(row.unit, row.figure(way).unwrap().median)
    };
    for way in [WayId::Container, WayId::MicrovmWarm, WayId::FullVm] {
        for row in ["start.first-byte", "memory.pss"] {
            assert!(idea.contains(&format!("<dd>{}</dd>", median(row, way))), "{row} {way}");
        }
    }
    assert_eq!(idea.matches(">own</span> kernel ").count(), 2, "{idea}");
    assert!(idea.contains(">shared</span> kernel 6.1.0-28-amd64"), "{idea}");
}

#[test]
fn top_claims_no_more_than_was_measured() {
    let mut report = testing::nginx();
    assert!(page(&report).contains("a container’s pace"));
    let row = report.rows.iter_mut().find(|row| row.id == "start.first-byte").unwrap();
    let slow = crate::model::Figure::of(vec![2e6; 5]).unwrap();
    row.cells[2].outcome = crate::model::Outcome::Measured(slow);
    assert!(!page(&report).contains("a container’s pace"));
    assert!(page(&report).contains("a fraction of a full machine’s time"));
    assert!(page(&report).contains("isolates completely"));
    report.isolation[0].observations[3].verdict = crate::model::Verdict::Shared;
    assert!(!page(&report).contains("isolates completely"));
}

#[test]
fn tables_have_captions_and_heads_and_every_verdict_is_a_word() {
    let report = testing::nginx();
    let page = page(&report);
    assert_eq!(page.matches("<table").count(), page.matches("<caption").count());
    assert_eq!(page.matches("scope=\"row\"").count(), report.rows.len() + report.isolation.len());
    let matrix = between(&page, "class=\"matrix\"", "</table>");
    for aspect in &report.isolation {
        for seen in &aspect.observations {
            let badge = format!("badge {}\">{}<", seen.verdict.name(), findings_word(seen.verdict));
            assert!(matrix.contains(&badge), "{badge}");
        }
    }
    assert!(matrix.contains("REACHED"));
}

fn findings_word(verdict: crate::model::Verdict) -> String {
    if verdict == crate::model::Verdict::Reached { "REACHED".into() } else { verdict.name().into() }
}

#[test]
fn names_in_the_page_are_there_once() {
    let page = page(&testing::hostile("same"));
    let mut ids: Vec<_> =
        page.split(" id=\"").skip(1).map(|it| it.split('"').next().unwrap()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    for reference in page.split("aria-labelledby=\"").skip(1) {
        for id in reference.split('"').next().unwrap().split(' ') {
            assert!(ids.contains(&id), "{id}");
        }
    }
}

#[test]
fn failures_notes_and_interruptions_come_before_the_figures() {
    let mut report = testing::nginx();
    report.ways[3].failure = Some("no disk".to_owned());
    report.interrupted = true;
    let page = page(&report);
    let notes = page.find("Before you read the figures").unwrap();
    assert!(notes < page.find("id=\"measurements\"").unwrap());
    let aside = between(&page, "<aside", "</aside>");
    for words in ["interrupted", "no disk", "These figures are invented"] {
        assert!(aside.contains(words), "{words}");
    }
    // A way that failed is no headline.
    assert!(!between(&page, "<section class=\"idea\"", "</section>").contains("A virtual machine"));
}

#[test]
fn an_empty_report_is_a_page_too() {
    let mut report = testing::nginx();
    report.ways.clear();
    report.rows.clear();
    report.timelines.clear();
    report.curves.clear();
    report.isolation.clear();
    report.notes.clear();
    assert!(page(&report).contains("</html>"));
}
