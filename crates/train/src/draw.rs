//! A net as a picture: an SVG that stands alone, the same for the same net.
//!
//! A layer is a box in the colour of its kind. The layers that work in place hang below the layer whose blob they change.
//! Below those come the blobs as octagons with their shapes, and from them lines go down to the layers that read them.

mod layout;
mod order;
mod pull;

use std::{
    collections::HashMap,
    fmt::{self, Write},
};

use layout::{BoxSize, Layout, Piece, Point, Wire, layout};
use sparknet_engine::spec::{DataBackend, EltwiseOperation, LayerKind, LayerSpec, NetSpec, Phase, PoolingMethod};

const MARGIN: f64 = 28.0;
const TITLE_HEIGHT: f64 = 44.0;
const LAYER_HEIGHT: f64 = 42.0;
const IN_PLACE_HEIGHT: f64 = 24.0;
const BLOB_HEIGHT: f64 = 22.0;
/// Between the boxes of a stack, and between its blobs.
const STACK_GAP: f64 = 3.0;
const BLOB_GAP: f64 = 10.0;
const STEM: f64 = 9.0;
const PADDING: f64 = 14.0;

/// Draws `net`. `shapes` gives the shape of each blob where it is known.
pub fn svg(net: &NetSpec, shapes: &dyn Fn(&str) -> Option<Vec<usize>>) -> String {
    let (stacks, wires) = stack_layers(net, shapes);
    let sizes: Vec<BoxSize> = stacks.iter().map(Stack::size).collect();
    let layout = layout(&sizes, &wires);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_svg(&mut text, net, &stacks, &layout);
    text
}

/// A layer, the in-place layers on its blobs, and the blobs.
#[derive(Default)]
struct Stack {
    rows: Vec<Row>,
    blobs: Vec<Blob>,
}

/// A layer's box.
struct Row {
    name: String,
    /// The type and the main parameters.
    about: String,
    colour: Colour,
}

/// A blob's octagon.
struct Blob {
    text: String,
    width: f64,
}

/// Fill and outline.
#[derive(Clone, Copy)]
struct Colour(&'static str, &'static str);

impl Stack {
    fn size(&self) -> BoxSize {
        let in_place = self.rows.len().saturating_sub(1) as f64 * (IN_PLACE_HEIGHT + STACK_GAP);
        let layers = if self.rows.is_empty() {
            0.0
        } else {
            LAYER_HEIGHT + in_place
        };
        let stem = if self.rows.is_empty() { 0.0 } else { STEM };
        let blobs = if self.blobs.is_empty() { 0.0 } else { BLOB_HEIGHT + stem };
        BoxSize {
            width: self.layers_width().max(self.blobs_width()),
            height: layers + blobs,
            top_width: if self.rows.is_empty() {
                self.blobs_width()
            } else {
                self.layers_width()
            },
        }
    }

    fn layers_width(&self) -> f64 {
        let width = |(index, row): (usize, &Row)| {
            let (name, about) = (text_width(&row.name, 13.0) * 1.08, text_width(&row.about, 11.0));
            // The first row has two lines, the others one.
            let text = if index == 0 {
                name.max(about)
            } else {
                name + 8.0 + about
            };
            text + 2.0 * PADDING
        };
        self.rows.iter().enumerate().map(width).fold(0.0, f64::max)
    }

    fn blobs_width(&self) -> f64 {
        let widths: f64 = self.blobs.iter().map(|blob| blob.width).sum();
        widths + self.blobs.len().saturating_sub(1) as f64 * BLOB_GAP
    }

    /// Each blob's middle, to the right of the stack's.
    fn blob_offsets(&self) -> Vec<f64> {
        let mut left = -self.blobs_width() / 2.0;
        let offset = |blob: &Blob| {
            let middle = left + blob.width / 2.0;
            left += blob.width + BLOB_GAP;
            middle
        };
        self.blobs.iter().map(offset).collect()
    }
}

/// The boxes and lines of a net. A blob that no layer before its reader writes, which is a mistake in the net, comes from
/// a box without a layer.
fn stack_layers(net: &NetSpec, shapes: &dyn Fn(&str) -> Option<Vec<usize>>) -> (Vec<Stack>, Vec<Wire>) {
    let mut stacks: Vec<Stack> = Vec::new();
    let mut wires: Vec<Wire> = Vec::new();
    // Who wrote a blob last: its stack and its wire.
    let mut writers: HashMap<&str, (usize, usize)> = HashMap::new();
    let blob = |name: &str| {
        let dims = shapes(name).map(|dims| format!("  {}", join(&dims, " × ")));
        let text = format!("{name}{}", dims.unwrap_or_default());
        let width = text_width(&text, 11.0) + 2.0 * PADDING;
        Blob { text, width }
    };
    let add_wire = |wires: &mut Vec<Wire>, from| {
        let (offset, to) = (0.0, Vec::new());
        wires.push(Wire { from, offset, to });
        (from, wires.len() - 1)
    };
    for layer in &net.layers {
        let row = Row {
            name: layer.name.clone(),
            about: about(layer, shapes),
            colour: colour(&layer.kind),
        };
        if let ([bottom], [top]) = (&layer.bottoms[..], &layer.tops[..])
            && bottom == top
            && let Some(&(stack, _)) = writers.get(top.as_str())
            && !stacks[stack].rows.is_empty()
        {
            stacks[stack].rows.push(row);
            continue;
        }
        for bottom in &layer.bottoms {
            if !writers.contains_key(bottom.as_str()) {
                let rows = Vec::new();
                let blobs = vec![blob(bottom)];
                stacks.push(Stack { rows, blobs });
                writers.insert(bottom, add_wire(&mut wires, stacks.len() - 1));
            }
        }
        let index = stacks.len();
        for bottom in &layer.bottoms {
            wires[writers[bottom.as_str()].1].to.push(index);
        }
        let mut stack = Stack::default();
        stack.rows.push(row);
        // A loss layer without tops in the file has a nameless one, which nobody can read.
        if !layer.message.top.is_empty() {
            for top in &layer.tops {
                stack.blobs.push(blob(top));
                writers.insert(top, add_wire(&mut wires, index));
            }
        }
        stacks.push(stack);
    }

    let mut offsets: Vec<_> = stacks.iter().map(|stack| stack.blob_offsets().into_iter()).collect();
    for wire in &mut wires {
        // A stack's wires are in the order of its blobs.
        wire.offset = offsets[wire.from].next().unwrap_or(0.0);
    }
    (stacks, wires)
}

/// A layer's type and what sets it apart from others of that type.
fn about(layer: &LayerSpec, shapes: &dyn Fn(&str) -> Option<Vec<usize>>) -> String {
    let spatial_axes = |default| {
        let dims = layer.bottoms.first().and_then(|bottom| shapes(bottom));
        dims.map_or(default, |dims| dims.len().saturating_sub(2))
    };
    let mut text = layer.type_name.to_owned();
    match &layer.kind {
        LayerKind::Convolution(spec) => {
            let kernel = per_axis(&spec.kernel, spatial_axes(2), "×");
            text += &format!(" {} × {kernel} /{}", spec.num_output, short(&spec.stride, 1));
            for (name, values, default) in [("pad", &spec.pad, 0), ("dilation", &spec.dilation, 1)] {
                if values.iter().any(|&value| value != default) {
                    text += &format!(" {name} {}", short(values, default));
                }
            }
            if spec.group > 1 {
                text += &format!(" group {}", spec.group);
            }
        }
        LayerKind::Pooling(spec) => {
            text += match spec.method {
                PoolingMethod::Max => " max",
                PoolingMethod::Average => " average",
                PoolingMethod::Stochastic => " stochastic",
            };
            if spec.global {
                text += " global";
            } else {
                text += &format!(" {} /{}", join(&spec.kernel, "×"), short(&spec.stride, 1));
                if spec.pad != [0, 0] {
                    text += &format!(" pad {}", short(&spec.pad, 0));
                }
            }
        }
        LayerKind::InnerProduct(spec) => text += &format!(" {}", spec.num_output),
        LayerKind::Lrn(spec) => {
            let region = if spec.within_channel { "within" } else { "across" };
            text += &format!(" {} {region} channels", spec.local_size);
        }
        LayerKind::Dropout(spec) => text += &format!(" {}", spec.ratio),
        LayerKind::Relu(spec) if spec.negative_slope != 0.0 => text += &format!(" slope {}", spec.negative_slope),
        LayerKind::Eltwise(spec) => {
            text += match &spec.operation {
                EltwiseOperation::Product => " product",
                EltwiseOperation::Max => " max",
                EltwiseOperation::Sum(_) => " sum",
            };
            if let EltwiseOperation::Sum(coefficients) = &spec.operation
                && coefficients.iter().any(|&coefficient| coefficient != 1.0)
            {
                text += &format!(" {}", join(coefficients, ", "));
            }
        }
        LayerKind::Concat(spec) => text += &format!(" axis {}", spec.axis),
        LayerKind::Slice(spec) => text += &format!(" axis {}", spec.axis),
        LayerKind::Softmax(spec) if spec.axis != 1 => text += &format!(" axis {}", spec.axis),
        LayerKind::Accuracy(spec) if spec.top_k > 1 => text += &format!(" top {}", spec.top_k),
        LayerKind::Data(spec) => {
            text += match spec.backend {
                DataBackend::Lmdb => " LMDB",
                DataBackend::LevelDb => " LevelDB",
            };
            text += &format!(" batch {}", spec.batch_size);
        }
        kind => {
            if let Some(batch_size) = kind.batch_size() {
                text += &format!(" batch {batch_size}");
            }
        }
    }
    for (index, &weight) in layer.loss_weights.iter().enumerate() {
        let usual = if index == 0 && layer.kind.is_loss() { 1.0 } else { 0.0 };
        if weight != usual {
            text += &format!(" weight {weight}");
        }
    }
    text
}

/// One value for all axes, or one an axis, as one an axis.
fn per_axis(values: &[usize], axes: usize, separator: &str) -> String {
    match values {
        [value] => join(&vec![value; axes.max(1)], separator),
        _ => join(values, separator),
    }
}

/// One number where all axes agree.
fn short(values: &[usize], default: usize) -> String {
    match values {
        [] => default.to_string(),
        [first, rest @ ..] if rest.iter().all(|value| value == first) => first.to_string(),
        _ => join(values, "×"),
    }
}

fn join<T: ToString>(values: &[T], separator: &str) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(separator)
}

fn colour(kind: &LayerKind) -> Colour {
    match kind {
        LayerKind::DummyData(_) => Colour("#d7eedc", "#5b9a6b"),
        kind if kind.is_fed() => Colour("#d7eedc", "#5b9a6b"),
        LayerKind::Convolution(_) => Colour("#d3e5fa", "#5585bd"),
        LayerKind::InnerProduct(_) => Colour("#e3dcf7", "#7f6bb8"),
        LayerKind::Pooling(_) => Colour("#fde6cb", "#c98a3d"),
        LayerKind::Relu(_) | LayerKind::Sigmoid | LayerKind::TanH => Colour("#fbdfe6", "#c4708a"),
        LayerKind::Dropout(_) | LayerKind::Lrn(_) => Colour("#f7f1c4", "#a89a3c"),
        LayerKind::Accuracy(_) | LayerKind::Softmax(_) => Colour("#cfeeee", "#4b9696"),
        kind if kind.is_loss() => Colour("#f9cfc9", "#bd5a4c"),
        _ => Colour("#e6e9ed", "#7b8794"),
    }
}

/// About how wide `text` is, in pixels. Fonts differ, so this is for a wide one.
fn text_width(text: &str, font_size: f64) -> f64 {
    let em = |char: char| match char {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.36,
        'f' | 'r' | 't' | '(' | ')' | '[' | ']' | '/' | '-' => 0.44,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '×' => 0.92,
        char if char.is_ascii_uppercase() => 0.72,
        char if (char as u32) < 0x2e80 => 0.63,
        _ => 1.05,
    };
    text.chars().map(em).sum::<f64>() * font_size
}

fn write_svg(out: &mut String, net: &NetSpec, stacks: &[Stack], layout: &Layout) -> fmt::Result {
    let phase = match net.state.phase {
        Phase::Train => "train",
        Phase::Test => "test",
    };
    let title_width = text_width(&net.name, 18.0) * 1.08 + 80.0;
    let width = (layout.width.max(title_width) + 2.0 * MARGIN).ceil();
    let height = (layout.height + TITLE_HEIGHT + 2.0 * MARGIN).ceil();
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" fill="#1f2933">
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0.5 L8 4 L0 7.5 Z" fill="#7b8794"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fbfcfd"/>
<text x="{MARGIN}" y="{:.0}" font-size="18"><tspan font-weight="bold">{}</tspan><tspan dx="10" font-size="13" fill="#616e7c">{phase}</tspan></text>"##,
        MARGIN + 18.0,
        escape(&net.name),
    )?;
    let left = ((width - layout.width) / 2.0).round();
    writeln!(out, r#"<g transform="translate({left} {:.0})">"#, MARGIN + TITLE_HEIGHT)?;
    writeln!(out, r##"<g fill="none" stroke="#9aa5b1" stroke-width="1.4">"##)?;
    for piece in &layout.pieces {
        write_piece(out, piece)?;
    }
    writeln!(out, "</g>")?;
    for (stack, &corner) in stacks.iter().zip(&layout.corners) {
        write_stack(out, stack, corner)?;
    }
    writeln!(out, "</g>\n</svg>")
}

fn write_piece(out: &mut String, piece: &Piece) -> fmt::Result {
    let (start, end) = (piece.start, piece.end);
    let middle_y = (piece.straight_to_y + end.y) / 2.0;
    write!(out, r#"<path d="M{:.1} {:.1}"#, start.x, start.y)?;
    if piece.straight_to_y > start.y {
        write!(out, " V{:.1}", piece.straight_to_y)?;
    }
    // An arrow's head needs a straight end to sit on.
    let end_y = if piece.at_box { end.y - 1.0 } else { end.y };
    write!(
        out,
        " C{:.1} {middle_y:.1} {:.1} {middle_y:.1} {:.1} {end_y:.1}\"",
        start.x, end.x, end.x
    )?;
    writeln!(
        out,
        "{}/>",
        if piece.at_box {
            r#" marker-end="url(#arrow)""#
        } else {
            ""
        }
    )
}

fn write_stack(out: &mut String, stack: &Stack, corner: Point) -> fmt::Result {
    let middle = corner.x + stack.size().width / 2.0;
    let width = stack.layers_width();
    let left = middle - width / 2.0;
    let mut y = corner.y;
    for (index, row) in stack.rows.iter().enumerate() {
        let height = if index == 0 { LAYER_HEIGHT } else { IN_PLACE_HEIGHT };
        let Colour(fill, outline) = row.colour;
        writeln!(
            out,
            r#"<rect x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{height}" rx="7" fill="{fill}" stroke="{outline}"/>"#
        )?;
        let (name, about) = (escape(&row.name), escape(&row.about));
        if index == 0 {
            writeln!(
                out,
                r##"<text x="{middle:.1}" y="{:.1}" font-size="13" font-weight="bold" text-anchor="middle">{name}</text>
<text x="{middle:.1}" y="{:.1}" font-size="11" fill="#3e4c59" text-anchor="middle">{about}</text>"##,
                y + 17.0,
                y + 33.0
            )?;
        } else {
            writeln!(
                out,
                r##"<text x="{middle:.1}" y="{:.1}" font-size="13" text-anchor="middle"><tspan font-weight="bold">{name}</tspan><tspan dx="8" font-size="11" fill="#3e4c59">{about}</tspan></text>"##,
                y + 16.5
            )?;
        }
        y += height + STACK_GAP;
    }
    let has_layers = !stack.rows.is_empty();
    let layers_bottom = y - STACK_GAP;
    let top = if has_layers { layers_bottom + STEM } else { corner.y };
    for (blob, offset) in stack.blobs.iter().zip(stack.blob_offsets()) {
        let x = middle + offset;
        if has_layers {
            // Blobs side by side may be wider than their layer: then the outer stems begin at its corners.
            let from = x.clamp(left + 8.0, left + width - 8.0);
            writeln!(
                out,
                r##"<path d="M{from:.1} {layers_bottom:.1} L{x:.1} {top:.1}" stroke="#9aa5b1" stroke-width="1.4"/>"##
            )?;
        }
        write_blob(out, blob, Point { x, y: top })?;
    }
    Ok(())
}

/// An octagon whose upper edge's middle is at `at`.
fn write_blob(out: &mut String, blob: &Blob, at: Point) -> fmt::Result {
    let (left, right) = (at.x - blob.width / 2.0, at.x + blob.width / 2.0);
    let (top, bottom) = (at.y, at.y + BLOB_HEIGHT);
    let cut = 7.0;
    writeln!(
        out,
        r##"<path d="M{:.1} {top:.1} H{:.1} L{right:.1} {:.1} V{:.1} L{:.1} {bottom:.1} H{:.1} L{left:.1} {:.1} V{:.1} Z" fill="#ffffff" stroke="#9aa5b1"/>
<text x="{:.1}" y="{:.1}" font-size="11" fill="#3e4c59" text-anchor="middle" xml:space="preserve">{}</text>"##,
        left + cut,
        right - cut,
        top + cut,
        bottom - cut,
        right - cut,
        left + cut,
        bottom - cut,
        top + cut,
        at.x,
        top + 15.0,
        escape(&blob.text)
    )
}

/// `text` within XML; characters that XML cannot hold are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(' '),
            char if char.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&char) => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
