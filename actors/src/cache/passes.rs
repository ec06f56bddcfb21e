//! Whether the files of a directory are read in passes: each of them once, and none again before nearly all were.
//!
//! Of a large directory a sample is looked at, chosen by the hash of the name and halved whenever it has grown too
//! large: so what is remembered is bounded however many files there are, and exact for those that are in it.
//!
//! A pass begins with the first file that comes again. It is the second one of a directory that is read in passes if
//! all that is read next was there before. It began at the wrong place if many files come again within it: then it begins
//! with those; a job that was started anew, and whoever looked at a few files before, is understood so. When that happens
//! again and again all is forgotten: under traffic that prefers some files, few are known by then.

use std::collections::HashMap;

/// Fewest files that are a data set: smaller ones need no treatment.
const FILES_MIN: u64 = 128;

/// Most files of the sample.
const SAMPLE_MAX: usize = 448;

/// The part of the files, as a divisor, that a pass must have read before it is believed, and the part of those that may
/// be new, or come again: with 1/4 and 1/16 traffic that prefers no file of 150 was believed once in 2,000 opens.
const BELIEVED_DIVISOR: usize = 2;
const ODD_DIVISOR: usize = 12;

/// The part of what was read, as a divisor, and how many beyond, that may come again before a pass began at the wrong
/// place.
const AGAIN_DIVISOR: usize = 8;
const AGAIN_BORNE: usize = 8;

/// How often in a row a pass may begin at the wrong place.
const WRONG_MAX: u32 = 2;

/// The part of a pass, as a divisor, that may be missing when it ends: readers ahead of others begin the next one.
const MISSING_DIVISOR: usize = 8;

/// The part of the files, as a divisor, that may be new in one pass over a data set.
const GROWTH_DIVISOR: usize = 4;

/// What comes again after so few other opens, or so small a part of the files, is one reading in several pieces.
const TOGETHER_MIN: u64 = 16;
const TOGETHER_DIVISOR: u64 = 8;

/// How the files of a directory are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There are too few to tell.
    Few,
    /// There are many, and they may be read in passes.
    Unknown,
    /// In passes.
    Passes,
}

/// What is remembered of the files of one directory, with all below.
#[derive(Default)]
pub(super) struct Passes {
    /// One in two to the power of this is looked at.
    shift: u32,
    sample: HashMap<u32, Seen>,
    /// Opens of all files, from 0 again after the last number.
    opens: u32,
    /// The number of the present pass.
    pass: u32,
    now: Pass,
    /// Passes in a row that began at the wrong place.
    wrong: u32,
    /// Whether it was found to be read in passes.
    is_found: bool,
}

/// Files of the sample that were read in the present pass.
#[derive(Default)]
struct Pass {
    /// Once at least.
    read: usize,
    /// Of them those that no earlier pass had.
    new: usize,
    /// Of them those that came twice.
    again: usize,
}

/// What is known of a file of the sample.
#[derive(Clone, Copy)]
struct Seen {
    /// The last pass that had it.
    pass: u32,
    /// The number of its last open.
    at: u32,
    often: Often,
}

/// How often a file was read in the last pass that had it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Often {
    /// Once, and in no earlier pass.
    New,
    Once,
    Twice,
}

impl Passes {
    /// How the files are read, as far as that shows.
    pub(super) fn reading(&self) -> Reading {
        match (self.is_found, self.files() >= FILES_MIN) {
            (true, _) => Reading::Passes,
            (false, true) => Reading::Unknown,
            (false, false) => Reading::Few,
        }
    }

    /// How many files there are, about; it grows with what is seen.
    pub(super) fn files(&self) -> u64 {
        (self.sample.len() as u64) << self.shift
    }

    /// The file with this hash was opened.
    pub(super) fn opened(&mut self, file: u32) {
        self.opens = self.opens.wrapping_add(1);
        if file & self.mask() != 0 {
            return;
        }
        let Some(seen) = self.sample.get_mut(&file) else { return self.add(file) };
        let others = u64::from(self.opens.wrapping_sub(seen.at));
        seen.at = self.opens;
        let seen = *seen;
        if others < (self.files() / TOGETHER_DIVISOR).max(TOGETHER_MIN) {
            return;
        }
        let often = if seen.pass != self.pass {
            self.now.read += 1;
            Often::Once
        } else if self.now.read >= self.sample.len() - self.sample.len() / MISSING_DIVISOR {
            self.next_pass();
            Often::Once
        } else if seen.often != Often::Twice {
            self.now.again += 1;
            Often::Twice
        } else {
            return;
        };
        self.sample.insert(file, Seen { pass: self.pass, often, ..seen });
        self.judge();
    }

    fn mask(&self) -> u32 {
        (1 << self.shift) - 1
    }

    fn add(&mut self, file: u32) {
        while self.sample.len() >= SAMPLE_MAX {
            self.shift += 1;
            let mask = self.mask();
            self.sample.retain(|file, _| file & mask == 0);
            self.count();
        }
        if file & self.mask() == 0 {
            self.sample.insert(file, Seen { pass: self.pass, at: self.opens, often: Often::New });
            self.now.read += 1;
            self.now.new += 1;
            self.judge();
        }
    }

    fn count(&mut self) {
        let now = || self.sample.values().filter(|seen| seen.pass == self.pass);
        let read = |often| now().filter(|seen| seen.often == often).count();
        self.now = Pass { read: now().count(), new: read(Often::New), again: read(Often::Twice) };
    }

    /// Begins a pass with one file. Those that no pass had of late are gone.
    fn next_pass(&mut self) {
        self.pass += 1;
        let pass = self.pass;
        self.sample.retain(|_, seen| seen.pass + 2 >= pass);
        self.now = Pass { read: 1, ..Pass::default() };
        self.wrong = 0;
    }

    fn judge(&mut self) {
        let Pass { read, new, again } = self.now;
        let has_grown = self.is_found && new > (self.sample.len() - new) / GROWTH_DIVISOR;
        if has_grown {
            self.forget();
        } else if again > AGAIN_BORNE + read / AGAIN_DIVISOR {
            self.begin_elsewhere();
        } else if read >= self.sample.len() / BELIEVED_DIVISOR && (new + again) * ODD_DIVISOR <= read {
            self.is_found |= self.files() >= FILES_MIN;
        }
    }

    /// The present pass began with what came again in it.
    fn begin_elsewhere(&mut self) {
        self.wrong += 1;
        if self.wrong > WRONG_MAX {
            return self.forget();
        }
        let before = self.pass;
        self.pass += 1;
        for seen in self.sample.values_mut() {
            if seen.pass == before && seen.often == Often::Twice {
                (seen.pass, seen.often) = (self.pass, Often::Once);
            }
        }
        self.count();
    }

    fn forget(&mut self) {
        *self = Self { opens: self.opens, ..Self::default() };
    }
}

#[cfg(test)]
mod tests;
