//! Which registers hold what: a row of targets in strips as wide as a register, and for each of them what to load and to
//! pick from it.

use std::ops::Range;

use super::MAX_LANES;

/// The most channels that share a register.
const MAX_PLANES: usize = 4;

/// How rows of `sources` become rows of `targets`, a strip of target columns at a time.
pub(super) struct Strips {
    /// The channels in one register, a power of 2.
    pub(super) planes: usize,
    /// The lanes of each of them.
    pub(super) slot_lanes: usize,
    strips: Vec<Strip>,
    /// By strip.
    taps: Vec<Tap>,
    pub(super) taps_per_strip: usize,
}

/// Targets side by side, the lanes of one register for each channel.
pub(super) struct Strip {
    pub(super) first: usize,
    pub(super) count: usize,
    /// For each lane the extent of its window.
    pub(super) extents: [f32; MAX_LANES],
    /// The first column that is loaded; negative in the padding.
    pub(super) source_start: isize,
    /// Which columns from there on exist.
    pub(super) source_bits: u32,
    /// For each lane the first column of its window, which may be in the padding.
    pub(super) columns: [i32; MAX_LANES],
    /// For each lane the first tap that is not in the padding.
    pub(super) first_taps: [i32; MAX_LANES],
}

/// Where in the loaded registers the same value of all windows lies.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// Where there is none, another value of the window.
    pub(super) choice: [i32; MAX_LANES],
    /// The lanes that have one.
    pub(super) lanes: u32,
}

impl Strips {
    /// `window` gives the columns that a target takes, those in the padding included. `None` if a window does not fit
    /// into two registers of `lanes`.
    pub(super) fn new(
        [source_width, target_width]: [usize; 2],
        lanes: usize,
        window: impl Fn(usize) -> Range<isize>,
        extent_of_window: impl Fn(usize) -> f32,
    ) -> Option<Self> {
        let taps_per_strip = (0..target_width).map(|target| window(target).len()).max()?;
        // What is loaded for windows up to this one, from column `start` on.
        let extent = |target: usize, start: isize| window(target).end.min(source_width as isize) - start;
        let whole_row = extent(target_width - 1, window(0).start);
        let fits = |planes: &usize| target_width * planes <= lanes && whole_row as usize * planes <= 2 * lanes;
        let planes = [MAX_PLANES, 2].into_iter().find(fits).unwrap_or(1);
        let (slot_lanes, slot_columns) = (lanes / planes, 2 * lanes / planes);
        let (mut strips, mut taps) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < target_width {
            let start = window(first).start;
            let fitting = (first..target_width).take_while(|&target| extent(target, start) <= slot_columns as isize);
            let count = fitting.take(slot_lanes).count();
            if count == 0 {
                return None;
            }
            // Lanes without a target repeat the last.
            let target = |lane: usize| first + (lane % slot_lanes).min(count - 1);
            let lanes_of = |f: &dyn Fn(usize) -> i32| std::array::from_fn(|lane| f(lane.min(lanes - 1)));
            let exists = |column: usize| (0..source_width as isize).contains(&(start + column as isize));
            strips.push(Strip {
                first,
                count,
                source_start: start,
                source_bits: (0..slot_columns).fold(0, |bits, column| bits | u32::from(exists(column)) << column),
                extents: std::array::from_fn(|lane| extent_of_window(target(lane))),
                columns: lanes_of(&|lane| window(target(lane)).start as i32),
                first_taps: lanes_of(&|lane| (-window(target(lane)).start).max(0) as i32),
            });
            taps.extend((0..taps_per_strip).map(|tap| {
                let column = |lane: usize| (window(target(lane)).start - start) as usize + tap;
                let is_there = |lane: usize| {
                    let columns = window(target(lane));
                    tap < columns.len() && (0..source_width as isize).contains(&(columns.start + tap as isize))
                };
                Tap {
                    choice: lanes_of(&|lane| {
                        (lane / slot_lanes * slot_columns + column(lane).min(slot_columns - 1)) as i32
                    }),
                    lanes: (0..lanes).fold(0, |bits, lane| bits | u32::from(is_there(lane)) << lane),
                }
            }));
            first += count;
        }
        Some(Self {
            planes,
            slot_lanes,
            strips,
            taps,
            taps_per_strip,
        })
    }

    pub(super) fn strips(&self) -> impl Iterator<Item = (&Strip, &[Tap])> {
        self.strips.iter().zip(self.taps.chunks_exact(self.taps_per_strip))
    }
}
