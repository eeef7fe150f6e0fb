//! Where the boxes of a net stand and how its lines run: a layered layout from top to bottom, after Sugiyama, Tagawa and
//! Toda, "Methods for visual understanding of hierarchical system structures" (1981). A box's rank is the longest way to
//! it; a line that passes a rank gets a place of its own there, so that it never runs through a box; places within a rank
//! are ordered for few crossings, then pulled to where their lines go.
//!
//! A blob that many layers read is one line that branches, not many lines side by side.

use std::collections::BTreeMap;

use super::{
    order::{crossings, improve_order, order},
    pull::pull,
};

/// Between boxes of a rank, and around a line that passes them.
pub(super) const GAP: f64 = 28.0;
pub(super) const LINE_GAP: f64 = 16.0;
/// Between ranks; more where lines go far to the side.
const MIN_RANK_GAP: f64 = 34.0;
const MAX_RANK_GAP: f64 = 84.0;

/// A box, whose place is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoxSize {
    pub width: f64,
    pub height: f64,
    /// The width of its upper edge, in its middle: lines may end there.
    pub top_width: f64,
}

/// A blob: a line from the bottom of one box to the tops of others, which all come after it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    /// The box that it comes from.
    pub from: usize,
    /// Where it leaves, to the right of the box's middle.
    pub offset: f64,
    /// The boxes that it goes to; twice for a box that reads it twice.
    pub to: Vec<usize>,
}

/// A point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
}

/// A piece of a line: straight down, then a curve to the next rank.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Where it begins.
    pub start: Point,
    /// How far down it is straight.
    pub straight_to_y: f64,
    /// Where it ends.
    pub end: Point,
    /// Whether it ends at a box, and not where the line passes a rank.
    pub at_box: bool,
}

/// A drawing's places.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub width: f64,
    pub height: f64,
    /// Each box's upper left corner.
    pub corners: Vec<Point>,
    pub pieces: Vec<Piece>,
}

/// A box, or a place where a line passes a rank.
pub(super) struct Place {
    pub rank: usize,
    pub x: f64,
    pub half_width: f64,
    /// The wire that passes.
    pub wire: Option<usize>,
}

/// A line from a place to one in the next rank.
pub(super) struct Link {
    pub upper: usize,
    pub upper_offset: f64,
    pub lower: usize,
    pub lower_offset: f64,
    /// Whether the upper box's blob goes nowhere else, and the lower box reads nothing else.
    pub is_only: bool,
}

/// Lays out boxes and the wires between them.
pub(super) fn layout(boxes: &[BoxSize], wires: &[Wire]) -> Layout {
    if boxes.is_empty() {
        return Layout::default();
    }
    let (mut places, mut links) = place(boxes, wires);
    let mut ranks = order(&places, &links);
    if crossings(&ranks, &links, &places) > 0 {
        improve_order(&mut ranks, &places, &links);
    }
    pull(&ranks, &mut places, &links);
    spread_entries(boxes, &places, &mut links);
    draw(boxes, &ranks, &places, &links)
}

/// The rank of each box: one more than the highest that it reads from; a box that reads nothing stands right above the
/// first that reads it.
fn box_ranks(boxes: &[BoxSize], wires: &[Wire]) -> Vec<usize> {
    let mut wires_by_box: Vec<Vec<&Wire>> = vec![Vec::new(); boxes.len()];
    wires.iter().for_each(|wire| wires_by_box[wire.from].push(wire));
    let mut ranks = vec![0; boxes.len()];
    let mut reads = vec![false; boxes.len()];
    for from in 0..boxes.len() {
        for &to in wires_by_box[from].iter().flat_map(|wire| &wire.to) {
            ranks[to] = ranks[to].max(ranks[from] + 1);
            reads[to] = true;
        }
    }
    for from in 0..boxes.len() {
        let readers = wires_by_box[from].iter().flat_map(|wire| &wire.to);
        if let Some(first) = readers.map(|&to| ranks[to]).min()
            && !reads[from]
        {
            ranks[from] = first - 1;
        }
    }
    ranks
}

/// Boxes first, then the places where wires pass.
fn place(boxes: &[BoxSize], wires: &[Wire]) -> (Vec<Place>, Vec<Link>) {
    let mut places: Vec<Place> = box_ranks(boxes, wires)
        .into_iter()
        .zip(boxes)
        .map(|(rank, size)| Place {
            rank,
            x: 0.0,
            half_width: size.width / 2.0,
            wire: None,
        })
        .collect();
    let mut links = Vec::new();
    let mut reads = vec![0; boxes.len()];
    wires.iter().flat_map(|wire| &wire.to).for_each(|&to| reads[to] += 1);
    for (index, wire) in wires.iter().enumerate() {
        let mut end = (wire.from, wire.offset);
        let mut readers = wire.to.clone();
        readers.sort_by_key(|&to| places[to].rank);
        for to in readers {
            while places[end.0].rank + 1 < places[to].rank {
                let rank = places[end.0].rank + 1;
                places.push(Place {
                    rank,
                    x: 0.0,
                    half_width: 0.0,
                    wire: Some(index),
                });
                links.push(Link {
                    upper: end.0,
                    upper_offset: end.1,
                    lower: places.len() - 1,
                    lower_offset: 0.0,
                    is_only: false,
                });
                end = (places.len() - 1, 0.0);
            }
            links.push(Link {
                upper: end.0,
                upper_offset: end.1,
                lower: to,
                lower_offset: 0.0,
                is_only: wire.to.len() == 1 && reads[to] == 1,
            });
        }
    }
    (places, links)
}

/// Spreads the lines that enter a box over its top, in the order in which they come; a single line goes straight down
/// where it can, but not to a corner.
fn spread_entries(boxes: &[BoxSize], places: &[Place], links: &mut [Link]) {
    let mut entering: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, link) in links.iter().enumerate() {
        if link.lower < boxes.len() {
            entering.entry(link.lower).or_default().push(index);
        }
    }
    for (lower, mut entering) in entering {
        let top_width = boxes[lower].top_width;
        let from = |link: &Link| places[link.upper].x + link.upper_offset - places[lower].x;
        if let [only] = entering[..] {
            links[only].lower_offset = from(&links[only]).clamp(-top_width / 4.0, top_width / 4.0);
            continue;
        }
        entering.sort_by(|&a, &b| from(&links[a]).total_cmp(&from(&links[b])));
        let step = top_width / entering.len() as f64;
        for (index, link) in entering.into_iter().enumerate() {
            links[link].lower_offset = step * (index as f64 + 0.5) - top_width / 2.0;
        }
    }
}

/// Gives ranks their heights and moves all to the upper left.
fn draw(boxes: &[BoxSize], ranks: &[Vec<usize>], places: &[Place], links: &[Link]) -> Layout {
    let left = places
        .iter()
        .map(|place| place.x - place.half_width)
        .fold(f64::MAX, f64::min);
    let right = places
        .iter()
        .map(|place| place.x + place.half_width)
        .fold(f64::MIN, f64::max);
    let upper_x = |link: &Link| places[link.upper].x + link.upper_offset;
    let lower_x = |link: &Link| places[link.lower].x + link.lower_offset;
    let mut widest = vec![0.0_f64; ranks.len()];
    for link in links {
        let rank = places[link.upper].rank;
        widest[rank] = widest[rank].max((upper_x(link) - lower_x(link)).abs());
    }
    let mut tops = Vec::with_capacity(ranks.len());
    let mut bottoms = Vec::with_capacity(ranks.len());
    let mut y = 0.0;
    for (rank, widest) in ranks.iter().zip(&widest) {
        let heights = rank
            .iter()
            .filter_map(|&place| boxes.get(place))
            .map(|size| size.height);
        tops.push(y);
        bottoms.push(y + heights.fold(0.0, f64::max));
        y = bottoms[bottoms.len() - 1] + (MIN_RANK_GAP + widest * 0.12).min(MAX_RANK_GAP);
    }
    let corner = |(place, size): (&Place, &BoxSize)| Point {
        x: place.x - size.width / 2.0 - left,
        y: tops[place.rank],
    };
    let piece = |(index, link): (usize, &Link)| {
        let rank = places[link.upper].rank;
        // A box's line begins at its bottom, a passing line at the top of the rank that it passes.
        let own_height = boxes.get(link.upper).map_or(0.0, |size| size.height);
        // Where a line branches, the first piece alone has the straight part. Branches follow each other in `links`.
        let exit = |link: &Link| (link.upper, link.upper_offset);
        let branches = index > 0 && exit(&links[index - 1]) == exit(link);
        Piece {
            start: Point {
                x: upper_x(link) - left,
                y: if branches {
                    bottoms[rank]
                } else {
                    tops[rank] + own_height
                },
            },
            straight_to_y: bottoms[rank],
            end: Point {
                x: lower_x(link) - left,
                y: tops[rank + 1],
            },
            at_box: places[link.lower].wire.is_none(),
        }
    };
    Layout {
        width: right - left,
        height: bottoms.last().copied().unwrap_or(0.0),
        corners: places.iter().zip(boxes).map(corner).collect(),
        pieces: links.iter().enumerate().map(piece).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(count: usize) -> Vec<BoxSize> {
        let size = |index: usize| BoxSize {
            width: 80.0 + 13.0 * (index % 5) as f64,
            height: 40.0 + 9.0 * (index % 3) as f64,
            top_width: 60.0,
        };
        (0..count).map(size).collect()
    }

    fn wire(from: usize, to: &[usize]) -> Wire {
        Wire {
            from,
            offset: 0.0,
            to: to.to_vec(),
        }
    }

    /// Two boxes in a row that each branch four ways, and a line from the first box to the last.
    fn inceptions() -> (Vec<BoxSize>, Vec<Wire>) {
        let wires = vec![
            wire(0, &[1, 2, 4, 6, 16]),
            wire(1, &[8]),
            wire(2, &[3]),
            wire(3, &[8]),
            wire(4, &[5]),
            wire(5, &[8]),
            wire(6, &[7]),
            wire(7, &[8]),
            wire(8, &[9, 10, 12, 14]),
            wire(9, &[16]),
            wire(10, &[11]),
            wire(11, &[16]),
            wire(12, &[13]),
            wire(13, &[16]),
            wire(14, &[15]),
            wire(15, &[16]),
        ];
        (boxes(17), wires)
    }

    fn rectangles(boxes: &[BoxSize], layout: &Layout) -> Vec<(Point, Point)> {
        let far = |(corner, size): (&Point, &BoxSize)| {
            let far = Point {
                x: corner.x + size.width,
                y: corner.y + size.height,
            };
            (*corner, far)
        };
        layout.corners.iter().zip(boxes).map(far).collect()
    }

    #[test]
    fn boxes_do_not_overlap_and_lie_within_the_drawing() {
        let (boxes, wires) = inceptions();
        let layout = layout(&boxes, &wires);
        let rectangles = rectangles(&boxes, &layout);
        for (index, (a, a_far)) in rectangles.iter().enumerate() {
            assert!(a.x >= -1e-6 && a.y >= 0.0, "{index}");
            assert!(
                a_far.x <= layout.width + 1e-6 && a_far.y <= layout.height + 1e-6,
                "{index}"
            );
            for (b, b_far) in &rectangles[..index] {
                let apart = a.x >= b_far.x + GAP - 1e-6
                    || b.x >= a_far.x + GAP - 1e-6
                    || a.y >= b_far.y + MIN_RANK_GAP - 1e-6
                    || b.y >= a_far.y + MIN_RANK_GAP - 1e-6;
                assert!(apart, "box {index} overlaps another");
            }
        }
    }

    /// The straight parts are the only ones in a rank's height, so curves cannot meet a box.
    #[test]
    fn lines_pass_beside_boxes_and_end_on_them() {
        let (boxes, wires) = inceptions();
        let layout = layout(&boxes, &wires);
        let rectangles = rectangles(&boxes, &layout);
        for piece in &layout.pieces {
            for (corner, far) in &rectangles {
                let beside = piece.start.x < corner.x || piece.start.x > far.x;
                let off = piece.straight_to_y <= corner.y || piece.start.y >= far.y;
                assert!(beside || off, "{piece:?} runs through a box");
                let curve_off = piece.end.y <= corner.y || piece.straight_to_y >= far.y;
                assert!(curve_off, "{piece:?} curves through a box");
            }
            let on_top =
                |(corner, far): &(Point, Point)| corner.y == piece.end.y && (corner.x..=far.x).contains(&piece.end.x);
            assert_eq!(rectangles.iter().any(on_top), piece.at_box, "{piece:?}");
        }
        let entering = layout.pieces.iter().filter(|piece| piece.at_box).count();
        assert_eq!(entering, wires.iter().map(|wire| wire.to.len()).sum::<usize>());
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let layout = layout(&boxes(5), &[wire(0, &[1]), wire(1, &[2]), wire(2, &[3]), wire(3, &[4])]);
        assert!(
            layout
                .pieces
                .iter()
                .all(|piece| (piece.start.x - piece.end.x).abs() < 0.1)
        );
    }

    #[test]
    fn branches_do_not_cross_where_they_need_not() {
        let (boxes, wires) = inceptions();
        let (places, links) = place(&boxes, &wires);
        let mut ranks = order(&places, &links);
        ranks.iter_mut().for_each(|rank| rank.reverse());
        ranks[1].rotate_left(2);
        assert!(crossings(&ranks, &links, &places) > 0);
        improve_order(&mut ranks, &places, &links);
        assert_eq!(crossings(&ranks, &links, &places), 0);
    }

    #[test]
    fn a_source_stands_right_above_its_first_reader() {
        let wires = [wire(0, &[1]), wire(1, &[2]), wire(2, &[4]), wire(3, &[4])];
        assert_eq!(box_ranks(&boxes(5), &wires), [0, 1, 2, 2, 3]);
    }
}
