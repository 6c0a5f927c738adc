//! What holds of the dashboards' files by themselves.

use std::collections::BTreeSet;

use freshet_topics::DOMAINS;
use serde_json::Value;

use crate::files::{
    DASHBOARDS, OUTPUTS, Panel, all, boards, dashboard, list, panels, path, read, strings, text, words,
};

/// Grafana's grid.
const COLUMNS: u64 = 24;

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_from_where() {
    let sources = read("grafana/provisioning/datasources/freshet.yml");
    for name in all() {
        for panel in panels(&name).iter().filter(|panel| !panel.is_row()) {
            let defaults = &panel.json["fieldConfig"]["defaults"];
            assert!(text(&panel.json, "description").len() > 20, "{}: no description", panel.place);
            assert!(text(&panel.json, "description").ends_with('.'), "{}: its description is cut", panel.place);
            assert!(!text(defaults, "unit").is_empty(), "{}: no unit", panel.place);
            assert!(!panel.targets().is_empty(), "{}: no query", panel.place);
            for source in panel.targets().iter().chain([&panel.json]).map(|it| text(&it["datasource"], "uid")) {
                assert!(sources.contains(&format!("uid: {source}\n")), "{}: no source {source}", panel.place);
            }
            // A tile is its colour.
            if panel.kind() == "stat" {
                let steps = list(&defaults["thresholds"]["steps"]).len();
                assert!(steps > 1, "{}: no thresholds", panel.place);
            }
        }
    }
}

/// A rejected value may say something of a person, and whoever sees a dashboard may not be who may read the tables.
#[test]
fn no_dashboard_shows_the_values_of_rejected_rows() {
    for name in all() {
        let mut found = Vec::new();
        strings(&dashboard(&name), &mut found);
        for query in found.iter().filter(|it| it.contains("FROM pipeline.rejects")) {
            assert!(words(query).all(|word| !["value", "raw"].contains(&word)), "{name}: {query}");
        }
    }
}

#[test]
fn ids_and_addresses_are_there_once() {
    let mut uids = BTreeSet::new();
    for name in all() {
        assert!(uids.insert(text(&dashboard(&name), "uid").to_owned()), "{name}");
        let panels = panels(&name);
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel.json["id"].as_u64().expect("an id")).collect();
        let titles: BTreeSet<_> = panels.iter().map(|panel| &panel.place).collect();
        assert_eq!((ids.len(), titles.len()), (panels.len(), panels.len()), "{name}");
    }
}

#[test]
fn panels_fill_the_grid_without_overlap_or_gap() {
    for name in all() {
        let panels = panels(&name);
        let at = |panel: &Panel, side: &str| panel.json["gridPos"][side].as_u64().expect("a number");
        let bottom = panels.iter().map(|panel| at(panel, "y") + at(panel, "h")).max().expect("panels");
        for y in 0..bottom {
            let mut taken = vec![None; COLUMNS as usize];
            for panel in panels.iter().filter(|panel| (at(panel, "y")..at(panel, "y") + at(panel, "h")).contains(&y)) {
                for x in at(panel, "x")..at(panel, "x") + at(panel, "w") {
                    let cell = taken.get_mut(x as usize).unwrap_or_else(|| panic!("{}: beyond the grid", panel.place));
                    assert_eq!(cell.replace(&panel.place), None, "{}: overlaps at {x}, {y}", panel.place);
                }
            }
            assert!(taken.iter().all(Option::is_some), "{name}: a gap in line {y}: {taken:?}");
        }
        // Whoever reads the file meets the panels as whoever looks at the dashboard.
        assert!(panels.iter().map(|panel| (at(panel, "y"), at(panel, "x"))).is_sorted(), "{name}");
    }
}

#[test]
fn links_lead_to_a_dashboard_and_take_the_time_and_the_domain_along() {
    let uids: Vec<String> = all().iter().map(|name| text(&dashboard(name), "uid").to_owned()).collect();
    let mut led_to = BTreeSet::new();
    for name in all() {
        let dashboard = dashboard(&name);
        for link in list(&dashboard["links"]) {
            assert_eq!((&link["keepTime"], &link["includeVars"]), (&Value::Bool(true), &Value::Bool(true)), "{name}");
        }
        // Of the boards it knows no more than their tag.
        let expected = if is_general(&name) {
            let tag = list(&dashboard["links"]).last().map(|link| (text(link, "type"), &link["tags"][0]));
            assert_eq!(tag, Some(("dashboards", &Value::from(BOARD))), "{name}: a link to the boards, by their tag");
            DASHBOARDS.len() - 1 + 1
        } else {
            assert!(list(&dashboard["tags"]).contains(&Value::from(BOARD)), "{name}: no tag that it is found by");
            DASHBOARDS.len()
        };
        assert_eq!(list(&dashboard["links"]).len(), expected, "{name}: a link to each other one");
        let mut found = Vec::new();
        strings(&dashboard, &mut found);
        for link in found.iter().filter(|it| it.starts_with("/d/")) {
            let (uid, query) = link["/d/".len()..].split_once('?').unwrap_or((&link["/d/".len()..], ""));
            assert!(uids.iter().any(|it| it == uid), "{name}: {link}");
            let carries = ["${__url_time_range}", "domain"].iter().all(|it| query.contains(it));
            assert!(query.is_empty() || carries, "{name}: {link}");
            if name == "overview" && !query.is_empty() {
                led_to.insert(uid.to_owned());
            }
        }
    }
    assert_eq!(led_to.into_iter().collect::<Vec<_>>(), ["freshet-data-quality", "freshet-pipeline"]);
}

#[test]
fn every_panel_leads_to_its_section_of_the_runbook() {
    let runbook = read("docs/runbook.md");
    let sections: BTreeSet<String> =
        runbook.lines().filter_map(|it| it.strip_prefix("## ")).map(str::to_lowercase).collect();
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let variables = list(&dashboard["templating"]["list"]);
        let address = variables.iter().find(|it| text(it, "name") == "runbook").map(|it| &it["query"]["query"]);
        assert_eq!(address, Some(&Value::from("label_values(up, runbook)")), "{name}");
        for panel in panels(name).iter().filter(|panel| !panel.is_row()) {
            let [link] = list(&panel.json["links"]) else { panic!("{}: not one link", panel.place) };
            let section = text(link, "url").strip_prefix("${runbook}#").unwrap_or_default();
            assert!(sections.contains(section), "{}: {section}", panel.place);
        }
        let marked: Vec<&str> = list(&dashboard["annotations"]["list"]).iter().map(|it| text(it, "name")).collect();
        assert_eq!(marked, ["Replays and swaps", "Releases"], "{name}");
    }
}

#[test]
fn the_address_of_the_runbook_is_set_in_one_place_and_is_there_without_being_set() {
    let config = read("grafana/prometheus/prometheus.yml");
    let addresses: Vec<&str> = config.lines().filter(|line| line.contains("://")).map(str::trim).collect();
    let [address] = addresses.as_slice() else { panic!("{addresses:?}") };
    let served = address.strip_prefix("runbook: &runbook http://127.0.0.1:3000/public/freshet/").expect("the default");
    assert!(path("docs").join(served).is_file(), "{served}");
    assert!(read("docker-compose.yml").contains("- ./docs:/usr/share/grafana/public/freshet:ro\n"));
    // The dashboards find it at Prometheus itself, on whose series it stands.
    let (_, own) = config.split_once("- job_name: prometheus\n").expect("Prometheus reads itself");
    assert!(own.contains("labels:\n          runbook: *runbook\n"), "{own}");
}

/// The tag of a board of a pipeline.
const BOARD: &str = "freshet-board";

fn is_general(name: &str) -> bool {
    DASHBOARDS.contains(&name)
}

/// Names that are of one pipeline: its domains, their tables, its outputs.
fn names_of_the_pipeline() -> BTreeSet<&'static str> {
    let domains = DOMAINS.iter().flat_map(|domain| [domain.name, domain.table]);
    domains.chain(OUTPUTS).collect()
}

/// Grafana takes a date for midnight in UTC, which in a browser west of it is the day before. The dashboards of any pipeline
/// show moments, which people read in their own time.
#[test]
fn a_board_shows_event_dates_as_the_same_day_everywhere() {
    for name in all() {
        let expected = if is_general(&name) { "browser" } else { "utc" };
        assert_eq!(text(&dashboard(&name), "timezone"), expected, "{name}");
    }
}

#[test]
fn the_dashboards_of_any_pipeline_name_nothing_of_one() {
    let own = names_of_the_pipeline();
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!((text(variable, "name"), &variable["multi"]), ("domain", &Value::Bool(true)), "{name}");
        assert_eq!(variable["query"]["query"], "label_values(freshet_files, domain)", "{name}");
        let mut found = Vec::new();
        strings(&dashboard, &mut found);
        for said in &found {
            assert!(words(said).all(|word| !own.contains(word)), "{name}: {said}");
        }
    }
    let rules = read("grafana/prometheus/alerts.yml") + &read("grafana/prometheus/prometheus.yml");
    let named: Vec<&str> = words(&rules).filter(|word| own.contains(word)).collect();
    assert!(named.is_empty(), "grafana/prometheus: {named:?}");
    // Those of the boards would be noticed.
    let mut found = Vec::new();
    boards().iter().for_each(|board| strings(&dashboard(board), &mut found));
    assert!(found.iter().any(|said| words(said).any(|word| own.contains(word))), "{found:?}");
}

#[test]
fn every_metric_that_is_asked_for_is_in_the_list() {
    let listed = read("docs/metrics.md");
    let mut asked = read("grafana/prometheus/alerts.yml") + &read("grafana/prometheus/alerts.test.yml");
    for name in all() {
        let mut found = Vec::new();
        strings(&dashboard(&name), &mut found);
        asked.extend(found.into_iter().map(|it| it + "\n"));
    }
    let named: BTreeSet<&str> = words(&asked).filter(|word| word.starts_with("freshet_")).collect();
    assert!(named.len() > 40, "{named:?}");
    for name in named {
        // A histogram is listed under its own name.
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(
            [name, base].iter().any(|it| listed.contains(&format!("| `{it}` |"))),
            "{name} is not in docs/metrics.md"
        );
    }
}

/// Metrics that are for whoever looks closer than a dashboard does, or that another says better.
const BESIDE_DASHBOARDS: [&str; 2] = ["freshet_transactions_seconds", "freshet_publication_timestamp_seconds"];

#[test]
fn every_metric_of_the_list_is_on_a_dashboard_or_in_an_alert() {
    let mut asked = read("grafana/prometheus/alerts.yml");
    for name in DASHBOARDS {
        let mut found = Vec::new();
        strings(&dashboard(name), &mut found);
        asked.extend(found.into_iter().map(|it| it + "\n"));
    }
    let asked: BTreeSet<&str> = words(&asked).collect();
    let listed = read("docs/metrics.md");
    let listed = listed.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
    let forms = ["", "_bucket", "_sum", "_count"];
    let is_shown = |name: &str| forms.iter().any(|form| asked.contains(format!("{name}{form}").as_str()));
    let unseen: Vec<&str> = listed.filter(|name| name.starts_with("freshet_") && !is_shown(name)).collect();
    assert_eq!(unseen, BESIDE_DASHBOARDS, "a panel, or a reason why not");
}

#[test]
fn prometheus_reads_every_role_and_grafana_every_folder_of_dashboards() {
    let config = read("grafana/prometheus/prometheus.yml");
    let (compose, provided) = (read("docker-compose.yml"), read("grafana/provisioning/dashboards/freshet.yml"));
    for service in ["ingest", "process", "metrics"] {
        assert!(config.contains(&format!("          - {service}\n")), "{service}");
        assert!(compose.contains(&format!("\n  {service}:\n")), "{service}");
    }
    for folder in ["/var/lib/grafana/dashboards", "/var/lib/grafana/boards"] {
        assert!(provided.contains(&format!("path: {folder}\n")), "{folder} is not provided");
        assert!(compose.contains(&format!(":{folder}:ro\n")), "{folder} is not mounted");
    }
}

#[test]
fn no_password_has_a_default() {
    let sources = read("grafana/provisioning/datasources/freshet.yml");
    let lines = sources.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let secrets: Vec<&str> = lines.filter(|line| line.contains("password:")).collect();
    assert_eq!(secrets, ["password: $FRESHET_POSTGRES_PASSWORD"]);
    assert!(path("grafana/provisioning/dashboards/freshet.yml").exists());
}
