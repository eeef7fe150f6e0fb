//! Where the boxes of a net stand and how its lines run: a layered layout from top to bottom, after Sugiyama, Tagawa and
//! Toda, "Methods for visual understanding of hierarchical system structures" (1981). A box's rank is the longest way to
//! it; a line that passes a rank gets a place of its own there, so that it never runs through a box; places within a rank
//! are ordered for few crossings, then pulled to where their lines go.
//!
//! A blob that many layers read is one line that branches, not many lines side by side.

use std::collections::BTreeMap;

/// Between boxes of a rank, and around a line that passes them.
const GAP: f64 = 28.0;
const LINE_GAP: f64 = 16.0;
/// Between ranks; more where lines go far to the side.
const MIN_RANK_GAP: f64 = 34.0;
const MAX_RANK_GAP: f64 = 84.0;
/// How often orders are improved, and places pulled.
const ORDER_SWEEPS: usize = 24;
const PULLS: usize = 300;

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
struct Place {
    rank: usize,
    x: f64,
    half_width: f64,
    /// The wire that passes.
    wire: Option<usize>,
}

/// A line from a place to one in the next rank.
struct Link {
    upper: usize,
    upper_offset: f64,
    lower: usize,
    lower_offset: f64,
    /// Whether the upper box's blob goes nowhere else, and the lower box reads nothing else.
    is_only: bool,
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

/// The places of each rank, from left to right: depth first, which keeps branches together.
fn order(places: &[Place], links: &[Link]) -> Vec<Vec<usize>> {
    let mut below = vec![Vec::new(); places.len()];
    let mut has_upper = vec![false; places.len()];
    for link in links {
        below[link.upper].push(link.lower);
        has_upper[link.lower] = true;
    }
    let rank_count = places.iter().map(|place| place.rank + 1).max().unwrap_or(0);
    let mut ranks = vec![Vec::new(); rank_count];
    let mut seen = vec![false; places.len()];
    let mut stack: Vec<usize> = (0..places.len()).rev().filter(|&place| !has_upper[place]).collect();
    while let Some(place) = stack.pop() {
        if std::mem::replace(&mut seen[place], true) {
            continue;
        }
        ranks[places[place].rank].push(place);
        stack.extend(below[place].iter().rev());
    }
    ranks
}

/// Sorts ranks by the mean place of their neighbours, downwards and upwards in turn, and keeps the best order.
fn improve_order(ranks: &mut Vec<Vec<usize>>, places: &[Place], links: &[Link]) {
    let (above, below) = neighbours(places, links);
    let mut best = ranks.clone();
    let mut best_crossings = crossings(ranks, links, places);
    let mut positions = positions(ranks, places);
    for sweep in 0..ORDER_SWEEPS {
        let down = sweep % 2 == 0;
        let neighbours = if down { &above } else { &below };
        for step in 0..ranks.len() {
            let rank = if down { step } else { ranks.len() - 1 - step };
            let key = |place: usize| match &neighbours[place] {
                links_of if links_of.is_empty() => positions[place],
                links_of => {
                    let sum: f64 = links_of.iter().map(|&(other, offset)| positions[other] + offset).sum();
                    sum / links_of.len() as f64
                }
            };
            let keys: BTreeMap<usize, f64> = ranks[rank].iter().map(|&place| (place, key(place))).collect();
            ranks[rank].sort_by(|a, b| keys[a].total_cmp(&keys[b]));
            for (position, &place) in ranks[rank].iter().enumerate() {
                positions[place] = position as f64;
            }
        }
        let count = crossings(ranks, links, places);
        if count < best_crossings {
            best_crossings = count;
            best.clone_from(ranks);
        }
    }
    *ranks = best;
}

/// Each place's neighbours above and below, with where the line leaves an upper one as a fraction of its width.
#[allow(clippy::type_complexity)] // Two lists of the same kind, unpacked at once.
fn neighbours(places: &[Place], links: &[Link]) -> (Vec<Vec<(usize, f64)>>, Vec<Vec<(usize, f64)>>) {
    let mut above = vec![Vec::new(); places.len()];
    let mut below = vec![Vec::new(); places.len()];
    for link in links {
        above[link.lower].push((link.upper, exit_fraction(link, places)));
        below[link.upper].push((link.lower, -exit_fraction(link, places)));
    }
    (above, below)
}

fn exit_fraction(link: &Link, places: &[Place]) -> f64 {
    link.upper_offset / (2.0 * places[link.upper].half_width).max(1.0)
}

/// Each place's index in its rank.
fn positions(ranks: &[Vec<usize>], places: &[Place]) -> Vec<f64> {
    let mut positions = vec![0.0; places.len()];
    for rank in ranks {
        for (position, &place) in rank.iter().enumerate() {
            positions[place] = position as f64;
        }
    }
    positions
}

/// How many pairs of links cross.
fn crossings(ranks: &[Vec<usize>], links: &[Link], places: &[Place]) -> u64 {
    let positions = positions(ranks, places);
    let mut by_rank: Vec<Vec<(f64, usize)>> = vec![Vec::new(); ranks.len()];
    for link in links {
        let exit = positions[link.upper] + exit_fraction(link, places);
        by_rank[places[link.upper].rank].push((exit, positions[link.lower] as usize));
    }
    by_rank
        .iter_mut()
        .map(|ends| {
            ends.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            inversions(ends.iter().map(|end| end.1))
        })
        .sum()
}

/// How many pairs of `values` are in falling order, counted in a Fenwick tree.
fn inversions(values: impl Iterator<Item = usize> + Clone) -> u64 {
    let mut tree = vec![0_u64; values.clone().max().map_or(0, |max| max + 2)];
    let mut count = 0;
    for (before, value) in values.enumerate() {
        let (mut not_greater, mut node) = (0, value + 1);
        while node > 0 {
            not_greater += tree[node];
            node &= node - 1;
        }
        count += before as u64 - not_greater;
        node = value + 1;
        while node < tree.len() {
            tree[node] += 1;
            node += node & node.wrapping_neg();
        }
    }
    count
}

/// Moves places to where their lines go, rank by rank, as near as their order and widths allow.
fn pull(ranks: &[Vec<usize>], places: &mut [Place], links: &[Link]) {
    let mut links_of = vec![Vec::new(); places.len()];
    for (index, link) in links.iter().enumerate() {
        links_of[link.upper].push(index);
        links_of[link.lower].push(index);
    }
    let mut passing: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, place) in places.iter().enumerate() {
        if let Some(wire) = place.wire {
            passing.entry(wire).or_default().push(index);
        }
    }
    for rank in ranks {
        let wanted = vec![(0.0, 1.0); rank.len()];
        settle(rank, places, &wanted);
    }
    for round in 0..PULLS {
        let mean_x = |places: &[Place], siblings: &Vec<usize>| {
            siblings.iter().map(|&sibling| places[sibling].x).sum::<f64>() / siblings.len() as f64
        };
        let long_lines: BTreeMap<usize, f64> = passing
            .iter()
            .filter(|(_, siblings)| siblings.len() > 1)
            .map(|(&wire, siblings)| (wire, mean_x(places, siblings)))
            .collect();
        for step in 0..ranks.len() {
            let rank = &ranks[if round % 2 == 0 { step } else { ranks.len() - 1 - step }];
            let wanted: Vec<(f64, f64)> = rank
                .iter()
                .map(|&place| wanted_x(place, places, links, &links_of[place], &long_lines))
                .collect();
            settle(rank, places, &wanted);
        }
    }
}

/// Where a place would stand if it were alone, and how much that matters.
fn wanted_x(
    place: usize,
    places: &[Place],
    links: &[Link],
    links_of: &[usize],
    long_lines: &BTreeMap<usize, f64>,
) -> (f64, f64) {
    if let Some(&x) = places[place].wire.and_then(|wire| long_lines.get(&wire)) {
        // A long line wants to be straight more than boxes want to be in the middle.
        return (x, 200.0);
    }
    let (mut sum, mut sum_weights) = (0.0, 0.0);
    for &link in links_of {
        let link = &links[link];
        let (other, x) = if link.lower == place {
            (link.upper, places[link.upper].x + link.upper_offset)
        } else {
            (link.lower, places[link.lower].x - link.upper_offset)
        };
        // What a net does runs from box to box, best straight down where nothing branches; lines that pass, such as
        // labels', must not bend that way.
        let weight = match places[other].wire {
            Some(_) => 0.02,
            None if link.is_only => 6.0,
            None => 1.0,
        };
        sum += weight * x;
        sum_weights += weight;
    }
    if sum_weights == 0.0 {
        return (places[place].x, 0.1);
    }
    (sum / sum_weights, 1.0)
}

/// Puts a rank's places where they want to be, in their order and without overlap, with the least sum of weighted squared
/// distances: isotonic regression by pooling adjacent violators.
fn settle(rank: &[usize], places: &mut [Place], wanted: &[(f64, f64)]) {
    let mut starts = Vec::with_capacity(rank.len());
    let mut start = 0.0;
    for (index, &place) in rank.iter().enumerate() {
        if index > 0 {
            start += distance(&places[rank[index - 1]], &places[place]);
        }
        starts.push(start);
    }
    // Each pool is (mean, weight, how many places), the means rising.
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (&(x, weight), start) in wanted.iter().zip(&starts) {
        let mut pool = (x - start, weight, 1);
        while let Some(&(mean, weight, count)) = pools.last()
            && mean >= pool.0
        {
            let sum = weight + pool.1;
            pool = ((mean * weight + pool.0 * pool.1) / sum, sum, count + pool.2);
            pools.pop();
        }
        pools.push(pool);
    }
    let means = pools
        .iter()
        .flat_map(|&(mean, _, count)| std::iter::repeat_n(mean, count));
    for ((&place, start), mean) in rank.iter().zip(&starts).zip(means) {
        places[place].x = mean + start;
    }
}

/// How far apart the middles of two places side by side are at least.
fn distance(left: &Place, right: &Place) -> f64 {
    let gap = if left.wire.is_some() || right.wire.is_some() {
        LINE_GAP
    } else {
        GAP
    };
    left.half_width + gap + right.half_width
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

    #[test]
    fn inversions_are_counted() {
        assert_eq!(inversions([3, 1, 2, 2, 0].into_iter()), 7);
        assert_eq!(inversions([0, 1, 1, 5].into_iter()), 0);
    }
}
