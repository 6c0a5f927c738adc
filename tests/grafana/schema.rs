//! The dashboards are what Grafana's published schema says, checked by the TypeScript compiler: the schema is types.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::files::{all, file_of, path, read};
use crate::packages;

fn packages() -> PathBuf {
    packages::installed("grafana-schema", &read("tests/grafana/package.json"))
}

/// Compiles a dashboard's text as a value of the schema's type.
fn compile(name: &str, json: &str) -> Output {
    let packages = packages();
    let folder = packages.join(name);
    fs::create_dir_all(&folder).expect("make a folder");
    fs::copy(path("tests/grafana/dashboard.ts"), folder.join("dashboard.ts")).expect("copy the type");
    // As a literal: of an import, the compiler would know only that a string is a string.
    let program =
        format!("import type {{ Dashboard }} from './dashboard'; export const dashboard: Dashboard = {json};\n");
    fs::write(folder.join("check.ts"), program).expect("write the program");
    let options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "esnext", "--module", "esnext"];
    let mut compiler = Command::new("node");
    compiler.arg(packages.join("node_modules/typescript/bin/tsc")).args(options);
    compiler.args(["--moduleResolution", "bundler", "check.ts"]).current_dir(&folder);
    compiler.output().expect("run node: scripts/setup installs it")
}

#[test]
fn the_dashboards_are_what_grafana_s_schema_says() {
    for name in all() {
        let file = file_of(&name);
        let output = compile(&file.replace('/', "-"), &read(&file));
        // Line numbers are those of the dashboard's file.
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn what_grafana_does_not_know_is_refused() {
    let good = read("grafana/dashboards/overview.json");
    let wrong = [
        (r#""colorMode": "background""#, r#""colorMode": "backgrund""#),
        (r#""graphMode": "none""#, r#""graphmode": "none""#),
        (r#""type": "timeseries""#, r#""type": "timeserie""#),
        (r#""mode": "absolute""#, r#""mode": "absolut""#),
        (r#""keepTime": true"#, r#""keepTime": "yes""#),
        (r#""showPoints": "never""#, r#""showPoints": "sometimes""#),
        (r#""fillOpacity": 10"#, r#""opacity": 10"#),
        (r#""unit": "s","#, ""),
        (r#""schemaVersion": 41,"#, ""),
    ];
    for (index, (right, wrong)) in wrong.into_iter().enumerate() {
        assert!(good.contains(right), "{right}");
        let output = compile(&format!("wrong-{index}"), &good.replacen(right, wrong, 1));
        assert!(!output.status.success(), "{wrong} is taken");
    }
}
