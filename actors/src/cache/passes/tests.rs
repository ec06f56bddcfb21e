use super::*;

/// Opens of a trace until the directory is found to be read in passes.
fn found_after(trace: impl IntoIterator<Item = u32>) -> Option<usize> {
    let mut passes = Passes::default();
    trace.into_iter().position(|file| {
        passes.opened(hash(file));
        passes.reading() == Reading::Passes
    })
}

/// Any mixing will do.
fn hash(file: u32) -> u32 {
    let mixed = (file ^ file >> 16).wrapping_mul(0x7feb_352d);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x846c_a68b);
    mixed ^ mixed >> 16
}

fn shuffled(files: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..files).collect();
    fastrand::shuffle(&mut order);
    order
}

/// Draws of files of which the `i`th one comes as often as `1 / i.powf(skew)`.
fn zipf(files: u32, skew: f64, count: usize) -> impl Iterator<Item = u32> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=files)
        .map(|rank| {
            sum += f64::from(rank).powf(-skew);
            sum
        })
        .collect();
    (0..count).map(move |_| sums.partition_point(|up_to| *up_to < fastrand::f64() * sum) as u32)
}

#[test]
fn shuffled_epochs_are_found_in_the_second_one_and_for_good() {
    fastrand::seed(3);
    for files in [128, 300, 1_000, 50_000] {
        let mut passes = Passes::default();
        for epoch in 0..6 {
            for (at, file) in shuffled(files).into_iter().enumerate() {
                passes.opened(hash(file));
                if epoch > 1 || epoch == 1 && at > files as usize * 2 / 3 {
                    assert_eq!(passes.reading(), Reading::Passes, "{files} files, epoch {epoch}, {at}");
                } else if epoch == 0 {
                    assert_ne!(passes.reading(), Reading::Passes);
                }
            }
            let many = passes.files() as f64 / f64::from(files);
            assert!((0.7..1.4).contains(&many), "{many}");
        }
    }
}

#[test]
fn files_in_order_that_are_read_in_pieces_are_found_too() {
    let pieces = |file: u32| std::iter::repeat_n(file, 5);
    let epoch = || (0..1_000).flat_map(pieces);
    let found = found_after(epoch().chain(epoch())).expect("found");
    assert!((7_000..8_500).contains(&found), "{found}");
}

#[test]
fn files_that_come_more_often_than_the_others_are_overlooked() {
    fastrand::seed(4);
    // One is looked up again and again, ten were tried out before the first epoch.
    let epoch = || {
        let looked_up = |at| (at % 50 == 0).then_some(5_000);
        shuffled(1_000)
            .into_iter()
            .enumerate()
            .flat_map(move |(at, file)| looked_up(at).into_iter().chain([file]))
    };
    let found = found_after((0..10).chain(epoch()).chain(epoch()).chain(epoch())).expect("found");
    assert!((1_000..2_700).contains(&found), "{found}");
}

#[test]
fn epoch_that_is_joined_late_or_broken_off_costs_no_more_than_another_one() {
    fastrand::seed(9);
    for part in [50, 300, 500, 700, 950] {
        let first = shuffled(1_000).split_off(part);
        let found =
            found_after(first.into_iter().chain((0..3).flat_map(|_| shuffled(1_000)))).expect("found");
        assert!(found < 3_700 - part, "{part}: {found}");
        let mut passes = Passes::default();
        let mut epoch =
            |count| shuffled(1_000).into_iter().take(count).for_each(|file| passes.opened(hash(file)));
        [1_000, 1_000, part, 1_000, 1_000].into_iter().for_each(&mut epoch);
        assert_eq!(passes.reading(), Reading::Passes, "{part}");
    }
}

#[test]
fn readers_who_begin_the_next_epoch_while_others_end_the_last_one_are_in_passes() {
    fastrand::seed(5);
    let mut trace: Vec<u32> = (0..6).flat_map(|_| shuffled(2_000)).collect();
    for at in 0..trace.len() - 40 {
        trace.swap(at, at + fastrand::usize(0..40));
    }
    let mut passes = Passes::default();
    for (at, file) in trace.into_iter().enumerate() {
        passes.opened(hash(file));
        assert!(at < 3_600 || passes.reading() == Reading::Passes, "{at}");
    }
}

#[test]
fn what_is_read_once_is_no_data_set_and_neither_is_a_small_directory() {
    let mut passes = Passes::default();
    (0..100_000).for_each(|file| passes.opened(hash(file)));
    assert_eq!(passes.reading(), Reading::Unknown);
    fastrand::seed(6);
    assert_eq!(found_after((0..20).flat_map(|_| shuffled(100))), None);
}

#[test]
fn traffic_that_prefers_some_files_is_never_taken_for_passes() {
    fastrand::seed(7);
    for files in [150, 500, 5_000, 200_000] {
        for skew in [0.0, 0.3, 0.6, 0.8, 1.0, 1.2] {
            assert_eq!(found_after(zipf(files, skew, 100_000)), None, "{files} files, {skew}");
        }
    }
    // All are read once, and then some of them often.
    for hot in [50, 200, 500] {
        let some = (0..100_000).map(|_| fastrand::u32(0..hot));
        assert_eq!(found_after((0..1_000).chain(some)), None, "{hot}");
    }
}

#[test]
fn data_set_that_is_read_otherwise_is_one_no_more_and_found_again() {
    fastrand::seed(8);
    let mut passes = Passes::default();
    let epoch = |passes: &mut Passes| shuffled(1_000).into_iter().for_each(|file| passes.opened(hash(file)));
    (0..3).for_each(|_| epoch(&mut passes));
    assert_eq!(passes.reading(), Reading::Passes);
    zipf(1_000, 0.8, 1_500).for_each(|file| passes.opened(hash(file)));
    assert_ne!(passes.reading(), Reading::Passes);
    (0..4).for_each(|_| epoch(&mut passes));
    assert_eq!(passes.reading(), Reading::Passes);
    // What grows all the time is read once, and not in passes.
    (5_000..6_000).for_each(|file| passes.opened(hash(file)));
    assert_ne!(passes.reading(), Reading::Passes);
}

#[test]
fn sample_is_bounded() {
    let mut passes = Passes::default();
    for round in 0..3 {
        (0..1_000_000).for_each(|file| passes.opened(hash(file)));
        assert!(passes.sample.len() <= SAMPLE_MAX && passes.sample.capacity() <= 2 * SAMPLE_MAX, "{round}");
    }
}
