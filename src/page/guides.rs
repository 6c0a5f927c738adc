//! The documentation as pages: that of this very program, also where nothing else can be reached.
//!
//! README and `docs` are part of the program, and are rendered when somebody opens one. Their links to each other work as
//! they do in the repository. What else they link to there, files and pictures, is not part of it and stays text.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

macro_rules! guides {
    ($($name:literal),+ $(,)?) => { [$(($name, include_str!(concat!("../../docs/", $name)))),+] };
}

/// Every page of `docs`, by file.
const GUIDES: [(&str, &str); 20] = guides![
    "answers.md",
    "compose.md",
    "contracts.md",
    "dashboards.md",
    "deploy.md",
    "exactly-once.md",
    "files.md",
    "metrics.md",
    "migrate.md",
    "outputs.md",
    "performance.md",
    "python.md",
    "rejects.md",
    "reliability.md",
    "replay.md",
    "restore.md",
    "runbook.md",
    "scaling.md",
    "status-page.md",
    "topics.md",
];
const README: &str = include_str!("../../README.md");

/// `GET /docs/NAME`.
pub(super) async fn guide(Path(name): Path<String>) -> Response {
    match GUIDES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => page(text),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `GET /README.md`, to which the guides link.
pub(super) async fn readme() -> Response {
    page(README)
}

fn page(markdown: &str) -> Response {
    ([(CONTENT_TYPE, super::HTML)], rendered(markdown)).into_response()
}

/// A guide as HTML.
fn rendered(markdown: &str) -> String {
    let mut body = String::new();
    html::push_html(&mut body, events(markdown).into_iter());
    let title = markdown.lines().next().unwrap_or_default().trim_start_matches('#').trim();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title} · freshet</title>\n\
         <link rel=\"icon\" href=\"/page/icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/page/page.css\">\n</head>\n<body class=\"guide\">\n\
         <p><a href=\"/\">← Status page</a></p>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// The parts of a guide: headings have the anchors that links name, and links and pictures without a target are text.
fn events(markdown: &str) -> Vec<Event<'_>> {
    let mut events: Vec<Event<'_>> = Vec::new();
    let mut heading_at = None;
    let mut is_linked = true;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => {
                heading_at = Some(events.len());
                events.push(event);
            }
            Event::End(TagEnd::Heading(_)) => {
                let at = heading_at.take().unwrap_or_default();
                let text: String = events[at..].iter().filter_map(text_of).collect();
                if let Some(Event::Start(Tag::Heading { id, .. })) = events.get_mut(at) {
                    *id = Some(anchor(&text).into());
                }
                events.push(event);
            }
            Event::Start(Tag::Link { ref dest_url, .. }) => {
                is_linked = is_served(dest_url);
                events.extend(is_linked.then_some(event));
            }
            Event::End(TagEnd::Link) => events.extend(is_linked.then_some(event)),
            Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => {}
            event => events.push(event),
        }
    }
    events
}

fn text_of<'e>(event: &'e Event<'_>) -> Option<&'e str> {
    match event {
        Event::Text(text) | Event::Code(text) => Some(text),
        _ => None,
    }
}

/// The anchor of a heading, as GitHub makes it.
///
/// | heading | anchor |
/// |---|---|
/// | Which file is stuck, and why? | which-file-is-stuck-and-why |
/// | `onOverwrite: replace` | onoverwrite-replace |
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it }).flat_map(char::to_lowercase).collect()
}

/// Whether a link of a guide leads somewhere from here: elsewhere, within the page, or to another guide.
fn is_served(target: &str) -> bool {
    if target.starts_with('#') || target.contains("://") {
        return true;
    }
    let (file, _) = target.split_once('#').unwrap_or((target, ""));
    let name = file.rsplit('/').next().unwrap_or_default();
    match file.strip_suffix(name) {
        Some("" | "docs/") => name == "README.md" || GUIDES.iter().any(|(known, _)| *known == name),
        Some("../") => name == "README.md",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_page_of_the_documentation_is_there() {
        let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("docs");
        let names = docs.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
        names.sort();
        assert_eq!(GUIDES.map(|(name, _)| name).as_slice(), names);
    }

    #[test]
    fn a_link_within_the_documentation_leads_to_a_heading() {
        let of = |name: &str| match name {
            "README.md" => README,
            name => GUIDES.iter().find(|(known, _)| *known == name).expect("a guide").1,
        };
        for (page, markdown) in GUIDES.iter().chain(&[("README.md", README)]) {
            for event in events(markdown) {
                let Event::Start(Tag::Link { dest_url, .. }) = event else { continue };
                let Some((file, heading)) = dest_url.split_once('#').filter(|_| !dest_url.contains("://")) else {
                    continue;
                };
                let target = if file.is_empty() { page } else { file.rsplit('/').next().unwrap_or_default() };
                let id = format!(" id=\"{heading}\"");
                assert!(rendered(of(target)).contains(&id), "{page} links to {dest_url}");
            }
        }
    }

    #[test]
    fn a_guide_is_rendered_with_its_table_and_without_what_is_not_there() {
        let html = rendered(
            "# A b\n\n![picture](x.png) [code](../src/lib.rs) [files](files.md#x) <https://a.example>\n\n\
             | a | b |\n|---|---|\n| `<1>` | 2 |\n",
        );
        for part in [
            "<title>A b · freshet</title>",
            "<h1 id=\"a-b\">A b</h1>",
            "<p>picture code <a href=\"files.md#x\">files</a> <a href=\"https://a.example\">",
            "<td><code>&lt;1&gt;</code></td>",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }
}
