//! The shipped pipeline folder is embedded: a file that is added to it is a change of this crate.

fn main() {
    println!("cargo::rerun-if-changed=../pipelines");
}
