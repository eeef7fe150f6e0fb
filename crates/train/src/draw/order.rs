//! Which place stands left of which in a rank: few lines cross.

use std::collections::BTreeMap;

use super::layout::{Link, Place};

/// How often orders are improved.
const SWEEPS: usize = 24;

/// The places of each rank, from left to right: depth first, which keeps branches together.
pub(super) fn order(places: &[Place], links: &[Link]) -> Vec<Vec<usize>> {
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
pub(super) fn improve_order(ranks: &mut Vec<Vec<usize>>, places: &[Place], links: &[Link]) {
    let (above, below) = neighbours(places, links);
    let mut best = ranks.clone();
    let mut best_crossings = crossings(ranks, links, places);
    let mut positions = positions(ranks, places);
    for sweep in 0..SWEEPS {
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
pub(super) fn crossings(ranks: &[Vec<usize>], links: &[Link], places: &[Place]) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::inversions;

    #[test]
    fn inversions_are_counted() {
        assert_eq!(inversions([3, 1, 2, 2, 0].into_iter()), 7);
        assert_eq!(inversions([0, 1, 1, 5].into_iter()), 0);
    }
}
