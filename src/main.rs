//! The `lockstep` binary: arguments, logging, exit code; nothing else.

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("info,lockstep=debug").init();
    let path = std::env::args().nth(1).unwrap();
    let config = lockstep::config::Config::load(path.as_ref()).unwrap();
    println!("{:?}", lockstep::daemon::run(config).await);
}
