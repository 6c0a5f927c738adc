//! What holds of the alerts: each fires once in promtool's cases and is silent on a healthy pipeline, and each has a
//! section in the runbook.

use std::collections::BTreeSet;
use std::process::Command;

use crate::files::{path, read};
use crate::prometheus;

/// The names of the alerts, in the order of the file.
pub(crate) fn names() -> Vec<String> {
    let rules = read("grafana/prometheus/alerts.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect()
}

fn promtool(arguments: &[&str]) -> String {
    let folder = path("grafana/prometheus");
    let output = Command::new(prometheus::program("promtool"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("run promtool");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}\n{said}");
    said
}

#[test]
fn prometheus_takes_the_settings_and_the_rules() {
    let said = promtool(&["check", "config", "--lint-fatal", "prometheus.yml"]);
    assert!(said.contains(&format!("{} rules found", names().len())), "{said}");
}

#[test]
fn every_alert_fires_where_it_should_and_nothing_fires_on_a_healthy_pipeline() {
    promtool(&["test", "rules", "alerts.test.yml"]);
    let cases = read("grafana/prometheus/alerts.test.yml");
    for name in names() {
        // With `exp_alerts: []` first: silent, then fired.
        let heading = format!("- alertname: {name}\n");
        let mut of_it = cases.split(&heading).skip(1);
        let silent = of_it.clone().any(|case| case.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts: []"));
        let fired = of_it.any(|case| case.lines().nth(2).is_some_and(|line| line.trim().starts_with("- exp_labels")));
        assert!(silent && fired, "{name} is silent: {silent}, fires: {fired}");
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_the_runbook_no_other() {
    let rules = read("grafana/prometheus/alerts.yml");
    let runbook = read("docs/runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names = names();
    assert_eq!(sections, names.iter().map(String::as_str).collect());
    for (name, rule) in names.iter().zip(rules.split("- alert: ").skip(1)) {
        assert!(name.starts_with("Freshet"), "{name}");
        let link = format!("runbook_url: \"{{{{ $externalLabels.runbook }}}}#{}\"\n", name.to_lowercase());
        assert!(rule.contains(&link), "{name}");
        let severity = ["critical", "warning"].into_iter().find(|it| rule.contains(&format!("severity: {it}\n")));
        let severity = severity.unwrap_or_else(|| panic!("{name} has no severity"));
        assert!(rule.contains("summary: ") && rule.contains("description: "), "{name}");
        let section = runbook.split(&format!("## {name}\n")).nth(1).expect("its section");
        let section = section.split("\n## ").next().expect("its text");
        for part in [&*format!("**Means** ({severity})"), "**Look**", "do**", "**Escalate**"] {
            assert!(section.to_lowercase().contains(&part.to_lowercase()), "{name}: {part}");
        }
    }
}
