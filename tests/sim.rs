//! Simulation by seed: the daemon's own code under virtual time, between models of a source, a
//! controller and stock brokers. `docs/CONTRIBUTING.md` says how to run one seed again.

/// What differs from run to run in an ordinary process, as one text.
fn chance() -> String {
    let order: std::collections::HashSet<_> = (0..20).collect();
    format!("{:?} {}", order, rand::random::<u64>())
}

#[test]
fn chance_follows_from_the_seed() {
    let run = |seed| {
        let thread = std::thread::spawn(move || {
            lockstep_sim_entropy::seed(seed);
            chance()
        });
        thread.join().unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
