//! Which directory of the disk tier a content belongs to: weighted rendezvous hashing.
//!
//! Every directory draws a number for a content, and the best one has it; what a directory draws depends on nothing
//! but its path, its size and the content. So a directory that comes takes its share from the others and one that goes
//! leaves its own to them, and nothing else moves. A table of ranges would be one look-up instead of one draw for each
//! directory, and would have to be kept.

use std::os::unix::ffi::OsStrExt;

use forebay_core::FileId;

use super::page::ContentKey;
use crate::config::CacheDirectory;

/// The directories, by number, as far as placing goes.
#[derive(Debug)]
pub(super) struct Placement(Box<[Ticket]>);

/// What one directory draws with.
#[derive(Debug)]
struct Ticket {
    seed: u64,
    weight: f64,
}

impl Placement {
    pub(super) fn new(directories: &[CacheDirectory]) -> Self {
        let ticket = |directory: &CacheDirectory| Ticket {
            seed: FileId::of(&[directory.path.as_os_str().as_bytes()]).as_u128() as u64,
            weight: directory.size_bytes as f64,
        };
        Self(directories.iter().map(ticket).collect())
    }

    /// The number of the directory that `content` belongs to; 0 where there is none.
    pub(super) fn home(&self, content: ContentKey) -> usize {
        if self.0.len() < 2 {
            return 0;
        }
        let draws = self.0.iter().map(|ticket| ticket.draw(content.fingerprint()));
        draws.enumerate().min_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(number, _)| number)
    }
}

impl Ticket {
    /// Exponentially distributed, with the weight as its rate: each directory is the least as often as its weight says.
    fn draw(&self, fingerprint: u64) -> f64 {
        let uniform = ((mixed(fingerprint ^ self.seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() / self.weight
    }
}

/// Every bit of the result depends on every bit of `word` (the finalizer of splitmix64).
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENTS: u64 = 100_000;

    fn directories(sizes: &[(&str, u64)]) -> Vec<CacheDirectory> {
        let directory =
            |(path, gib): &(&str, u64)| CacheDirectory { path: path.into(), size_bytes: gib << 30 };
        sizes.iter().map(directory).collect()
    }

    fn content(number: u64) -> ContentKey {
        ContentKey::from_bits(FileId::of(&[&number.to_le_bytes()]).as_u128())
    }

    /// The path of each content's home.
    fn homes(sizes: &[(&str, u64)]) -> Vec<String> {
        let (directories, placement) = (directories(sizes), Placement::new(&directories(sizes)));
        let home = |number| directories[placement.home(content(number))].path.display().to_string();
        (0..CONTENTS).map(home).collect()
    }

    fn share(homes: &[String], path: &str) -> f64 {
        homes.iter().filter(|home| *home == path).count() as f64 / CONTENTS as f64
    }

    #[test]
    fn each_directory_has_the_share_of_its_size() {
        let homes = homes(&[("/a", 100), ("/b", 200), ("/c", 700)]);
        for (path, expected) in [("/a", 0.1), ("/b", 0.2), ("/c", 0.7)] {
            let found = share(&homes, path);
            assert!((found - expected).abs() < 0.01, "{path}: {found}");
        }
    }

    #[test]
    fn a_directory_that_comes_or_goes_moves_its_share_only_and_the_order_does_not_count() {
        let two = homes(&[("/a", 100), ("/b", 100)]);
        let three = homes(&[("/c", 200), ("/b", 100), ("/a", 100)]);
        assert!((share(&three, "/c") - 0.5).abs() < 0.01);
        let has_moved = |(before, after): (&String, &String)| before != after && after != "/c";
        assert!(!two.iter().zip(&three).any(has_moved));
    }

    #[test]
    fn a_directory_that_grows_takes_and_gives_nothing() {
        let before = homes(&[("/a", 100), ("/b", 100)]);
        let after = homes(&[("/a", 150), ("/b", 100)]);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || after == "/a"));
        assert!((share(&after, "/a") - 0.6).abs() < 0.01);
    }
}
