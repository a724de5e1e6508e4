// A photo or a drawing of one digit, as the 28 x 28 numbers that the digit models take. It is DigitPixels.kt in Swift,
// function by function, and needs no library but Foundation.

import Foundation

/// Numbers row by row.
struct Plane {
    let height: Int, width: Int
    var at: [Float]

    init(height: Int, width: Int) { self.init(height: height, width: width, at: [Float](repeating: 0, count: height * width)) }
    init(height: Int, width: Int, at: [Float]) { self.height = height; self.width = width; self.at = at }

    subscript(y: Int, x: Int) -> Float {
        get { at[y * width + x] }
        set { at[y * width + x] = newValue }
    }
    var longest: Int { max(height, width) }
    var highest: Float { at.max() ?? 0 }
    func map(_ change: (Float) -> Float) -> Plane { Plane(height: height, width: width, at: at.map(change)) }
    func turned() -> Plane {
        var out = Plane(height: width, width: height)
        for y in 0..<height { for x in 0..<width { out[x, y] = self[y, x] } }
        return out
    }
}

/// Yes and no, row by row.
struct Mask {
    let height: Int, width: Int
    var at: [Bool]

    init(height: Int, width: Int) { self.init(height: height, width: width, at: [Bool](repeating: false, count: height * width)) }
    init(height: Int, width: Int, at: [Bool]) { self.height = height; self.width = width; self.at = at }

    subscript(y: Int, x: Int) -> Bool {
        get { at[y * width + x] }
        set { at[y * width + x] = newValue }
    }
    func turned() -> Mask {
        var out = Mask(height: width, width: height)
        for y in 0..<height { for x in 0..<width { out[x, y] = self[y, x] } }
        return out
    }
    func without(_ other: Mask) -> Mask {
        Mask(height: height, width: width, at: at.indices.map { at[$0] && !other.at[$0] })
    }
    func inRow(_ y: Int) -> Bool { (0..<width).contains { self[y, $0] } }
    func inColumn(_ x: Int) -> Bool { (0..<height).contains { self[$0, x] } }
}

/// The first row and column of a box, and those after its last.
struct Box { let top: Int, left: Int, bottom: Int, right: Int }

/// 784 numbers, row by row, from 0 (paper) to 255 (ink), of an upright image in grey levels from 0 (black) to 255
/// (white), of any size and polarity; nil where nothing on it stands out from the paper.
func digitPixels(_ image: Plane) -> [Float]? {
    let factor = image.longest / 384
    let grey = factor > 1 ? means(image, factor, isWhole: true) : image
    let ink = lightOnDark(grey)
    if isInForm(ink) { return ink.at }
    let digit = ofTheDigit(isUneven(grey, ink) ? flatInk(grey) : withoutNoise(ink))
    return digit.highest > 0 ? boxed(digit) : nil
}

private func lightOnDark(_ grey: Plane) -> Plane {
    let paper = Float(percentile(border(grey), 50))
    let lighter = grey.map { max($0 - paper, 0) }
    let darker = grey.map { max(paper - $0, 0) }
    return squares(lighter) > squares(darker) ? lighter : darker
}

private func squares(_ plane: Plane) -> Double { plane.at.reduce(0) { $0 + Double($1) * Double($1) } }

private func isUneven(_ grey: Plane, _ ink: Plane) -> Bool {
    let edge = border(grey)
    return percentile(edge, 90) - percentile(edge, 10) > 0.2 * Double(ink.highest)
}

private func withoutNoise(_ ink: Plane) -> Plane {
    let noise = Float(min(percentile(border(ink), 95), 0.3 * Double(ink.highest)))
    return ink.map { max($0 - noise, 0) }
}

private func border(_ plane: Plane) -> [Float] {
    let rows = [0, plane.height - 1].flatMap { y in (0..<plane.width).map { plane[y, $0] } }
    let columns = [0, plane.width - 1].flatMap { x in (0..<plane.height).map { plane[$0, x] } }
    return rows + columns
}

private func percentile(_ values: [Float], _ percent: Double) -> Double {
    let ordered = values.sorted()
    let place = percent / 100 * Double(ordered.count - 1)
    let below = Int(place.rounded(.down))
    let above = min(below + 1, ordered.count - 1)
    return Double(ordered[below]) + (place - Double(below)) * Double(ordered[above] - ordered[below])
}

/// The means of squares of pixels, whole ones as Pillow rounds them; squares at the far edges may have fewer pixels.
private func means(_ plane: Plane, _ factor: Int, isWhole: Bool) -> Plane {
    var small = Plane(height: (plane.height + factor - 1) / factor, width: (plane.width + factor - 1) / factor)
    for y in 0..<small.height {
        for x in 0..<small.width {
            let bottom = min((y + 1) * factor, plane.height)
            let right = min((x + 1) * factor, plane.width)
            let count = (bottom - y * factor) * (right - x * factor)
            var sum = 0.0
            for row in (y * factor)..<bottom { for column in (x * factor)..<right { sum += Double(plane[row, column]) } }
            let whole = ((Int(sum) + count / 2) * ((1 << 24) / count)) >> 24
            small[y, x] = isWhole ? Float(whole) : Float(sum / Double(count))
        }
    }
    return small
}

// The form of MNIST: at most 20 x 20, the centre of mass in the middle of 28 x 28.

private func isInForm(_ ink: Plane) -> Bool {
    if ink.height != 28 || ink.width != 28 || ink.highest <= 0 { return false }
    let box = inkBox(ink, 0)
    let (row, column) = centre(ink)
    return (19...20).contains(max(box.bottom - box.top, box.right - box.left)) && max(abs(row - 14), abs(column - 14)) <= 0.55
}

private func boxed(_ ink: Plane) -> [Float] {
    let box = inkBox(ink, 0.2 * ink.highest)
    var crop = Plane(height: box.bottom - box.top, width: box.right - box.left)
    for y in 0..<crop.height { for x in 0..<crop.width { crop[y, x] = ink[box.top + y, box.left + x] } }
    let scale = 20.0 / Double(crop.longest)
    let small = resized(crop, max(1, nearest(Double(crop.height) * scale)), max(1, nearest(Double(crop.width) * scale)))
    let (row, column) = centre(small)
    let top = min(max(nearest(14 - row), 0), 28 - small.height)
    let left = min(max(nearest(14 - column), 0), 28 - small.width)
    let stretch = 255 / small.highest
    var out = Plane(height: 28, width: 28)
    for y in 0..<small.height { for x in 0..<small.width { out[top + y, left + x] = small[y, x] * stretch } }
    return out.at
}

private func nearest(_ value: Double) -> Int { Int(value.rounded(.toNearestOrEven)) }

private func inkBox(_ ink: Plane, _ threshold: Float) -> Box {
    boxOf(Mask(height: ink.height, width: ink.width, at: ink.at.map { $0 > threshold }))!
}

private func boxOf(_ mask: Mask) -> Box? {
    let rows = (0..<mask.height).filter(mask.inRow)
    let columns = (0..<mask.width).filter(mask.inColumn)
    guard let top = rows.first, let left = columns.first else { return nil }
    return Box(top: top, left: left, bottom: rows.last! + 1, right: columns.last! + 1)
}

private func centre(_ ink: Plane) -> (Double, Double) {
    var sum = 0.0, row = 0.0, column = 0.0
    for y in 0..<ink.height {
        for x in 0..<ink.width {
            sum += Double(ink[y, x])
            row += Double(y) * Double(ink[y, x])
            column += Double(x) * Double(ink[y, x])
        }
    }
    return (row / sum, column / sum)
}

/// Each new pixel is the mean of those that it covers; of a larger image, their mixture (bilinear).
private func resized(_ plane: Plane, _ height: Int, _ width: Int) -> Plane {
    let isSmaller = max(height, width) < plane.longest
    return resizedDown(resizedDown(plane.turned(), width, isSmaller).turned(), height, isSmaller)
}

private func resizedDown(_ plane: Plane, _ height: Int, _ isSmaller: Bool) -> Plane {
    let step = Double(plane.height) / Double(height)
    let unit = max(step, 1)
    let reach = (isSmaller ? 0.5 : 1) * unit
    var out = Plane(height: height, width: plane.width)
    for y in 0..<height {
        let middle = (Double(y) + 0.5) * step
        let first = max(0, Int((middle - reach + 0.5).rounded(.down)))
        let after = min(plane.height, Int((middle + reach + 0.5).rounded(.down)))
        let weights = (first..<after).map { place -> Double in
            let away = (Double(place) - middle + 0.5) / unit
            return isSmaller ? (away > -0.5 && away <= 0.5 ? 1 : 0) : max(1 - abs(away), 0)
        }
        let whole = weights.reduce(0, +)
        for x in 0..<plane.width {
            var sum = 0.0
            for row in first..<after { sum += Double(plane[row, x]) * weights[row - first] / whole }
            out[y, x] = Float(sum)
        }
    }
    return out
}

// Uneven light: ink is how much of the light of the paper around it is missing.

private func flatInk(_ grey: Plane) -> Plane {
    let light = inkIsDark(grey) ? grey : grey.map { 255 - $0 }
    let paper = closed(smooth(light), (light.longest / 5) | 1)
    let dimmest = max(80, 0.3 * paper.highest)
    let ink = Plane(height: light.height, width: light.width, at: zip(light.at, paper.at).map { light, paper -> Float in
        let missing = 1 - light / max(paper, dimmest)
        return 255 * min(max(missing, 0), 1)
    })
    let middle = Float(percentile(ink.at, 50))
    return ink.map { max($0 - middle, 0) }
}

/// Whether what is narrow is darker than what is around it rather than lighter, on all scales together.
private func inkIsDark(_ grey: Plane) -> Bool {
    let scale = min(1, 128.0 / Double(grey.longest))
    let height = max(1, nearest(Double(grey.height) * scale))
    let width = max(1, nearest(Double(grey.width) * scale))
    let small = resized(grey, height, width).map { log($0 + 8) }
    var verdict = 0.0
    for side in [5, 9, 17, 33] {
        let dark = filled(small, side)
        let light = filled(small.map { -$0 }, side)
        verdict += (dark - light) / max(dark + light, 1e-9)
    }
    return verdict > 0
}

private func filled(_ plane: Plane, _ side: Int) -> Double {
    let whole = closed(plane, side)
    var sum = 0.0
    for place in plane.at.indices {
        let more = Double(whole.at[place] - plane.at[place])
        sum += more * more
    }
    return sum
}

private func smooth(_ plane: Plane) -> Plane {
    var out = Plane(height: plane.height, width: plane.width)
    for y in 0..<plane.height {
        for x in 0..<plane.width {
            var sum: Float = 0
            for down in -1...1 {
                for across in -1...1 {
                    sum += plane[min(max(y + down, 0), plane.height - 1), min(max(x + across, 0), plane.width - 1)]
                }
            }
            out[y, x] = sum / 9
        }
    }
    return out
}

/// Dark parts filled up that no square of that side fits into; light that falls off at the edge goes on falling.
private func closed(_ plane: Plane, _ side: Int) -> Plane {
    let around = side / 2 * 2
    let padded = continued(continued(plane, around).turned(), around).turned()
    let most = largest(largest(padded, side).turned(), side).turned().map { -$0 }
    return largest(largest(most, side).turned(), side).turned().map { -$0 }
}

/// Rows before the first and behind the last: the plane turned about its edge, again and again.
private func continued(_ plane: Plane, _ around: Int) -> Plane {
    let last = plane.height - 1
    var out = Plane(height: plane.height + 2 * around, width: plane.width)
    for row in 0..<out.height {
        for x in 0..<plane.width {
            if last == 0 {
                out[row, x] = plane[0, x]
                continue
            }
            let turns = Int((Double(row - around) / Double(last)).rounded(.down))
            let rest = row - around - turns * last
            let rise = plane[last, x] - plane[0, x]
            out[row, x] = turns % 2 == 0
                ? plane[rest, x] + Float(turns) * rise
                : 2 * plane[last, x] - plane[last - rest, x] + Float(turns - 1) * rise
        }
    }
    return out
}

/// The largest of each `side` values that follow one another in a column.
private func largest(_ plane: Plane, _ side: Int) -> Plane {
    var found = plane
    var covered = 1
    while covered < side {
        let step = min(covered, side - covered)
        let before = found.at
        let ahead = step * plane.width
        let at = (0..<(before.count - ahead)).map { max(before[$0], before[$0 + ahead]) }
        found = Plane(height: found.height - step, width: plane.width, at: at)
        covered += step
    }
    return found
}

// Which ink is the digit: not ruled lines, frames, specks and neighbours.

private func ofTheDigit(_ ink: Plane) -> Plane {
    if !hasEdges(ink) { return Plane(height: ink.height, width: ink.width) }
    let factor = (ink.longest + 255) / 256
    var near = chosen(inkMask(filledMeans(ink, factor)))
    for _ in 0..<3 { near = grown(near) }
    var digit = Plane(height: ink.height, width: ink.width)
    var elsewhere: Float = 0
    for y in 0..<ink.height {
        for x in 0..<ink.width {
            if near[y / factor, x / factor] { digit[y, x] = ink[y, x] } else { elsewhere = max(elsewhere, ink[y, x]) }
        }
    }
    return elsewhere < 0.15 * digit.highest ? ink : digit
}

/// Whether any of the ink begins within a few pixels, as strokes do; light that falls off has no edge anywhere.
private func hasEdges(_ ink: Plane) -> Bool {
    let small = filledMeans(ink, max(1, (ink.longest + 47) / 48))
    if min(small.height, small.width) <= 2 { return true }  // too small to tell
    var steepest: Float = 0
    for y in 0..<small.height {
        for x in 0..<small.width {
            if y >= 2 { steepest = max(steepest, abs(small[y, x] - small[y - 2, x])) }
            if x >= 2 { steepest = max(steepest, abs(small[y, x] - small[y, x - 2])) }
        }
    }
    return steepest > 0.5 * small.highest
}

/// As `means`, with the last row and column repeated where squares reach beyond them.
private func filledMeans(_ plane: Plane, _ factor: Int) -> Plane {
    if factor == 1 { return plane }
    var whole = Plane(
        height: (plane.height + factor - 1) / factor * factor, width: (plane.width + factor - 1) / factor * factor)
    for y in 0..<whole.height {
        for x in 0..<whole.width { whole[y, x] = plane[min(y, plane.height - 1), min(x, plane.width - 1)] }
    }
    return means(whole, factor, isWhole: false)
}

private func inkMask(_ ink: Plane) -> Mask {
    let middle = Float(percentile(ink.at, 50))
    let noise = 1.4826 * percentile(ink.at.map { abs($0 - middle) }, 50)
    let threshold = max(otsu(ink), 5 * noise, 30)
    return Mask(height: ink.height, width: ink.width, at: ink.at.map { Double($0) > threshold })
}

/// The grey level that parts paper and ink best (Otsu's method).
private func otsu(_ ink: Plane) -> Double {
    var counts = [Double](repeating: 0, count: 256)
    for value in ink.at { counts[Int(min(max(value, 0), 255))] += 1 }
    let total = Double(ink.at.count)
    let all = counts.enumerated().reduce(0.0) { $0 + Double($1.offset) * $1.element }
    var below = 0.0, sum = 0.0, most = 0.0
    var best = 0
    for level in 0...255 {
        below += counts[level]
        sum += Double(level) * counts[level]
        let above = total - below
        if below == 0 || above == 0 { continue }
        let apart = sum / below - (all - sum) / above
        let between = below * above * apart * apart
        if between > most {
            best = level
            most = between
        }
    }
    return Double(best)
}

private struct Part {
    let number: Int
    var area = 0, top = Int.max, left = Int.max, bottom = 0, right = 0
    var height: Int { bottom - top }
    var width: Int { right - left }
}

private func chosen(_ mask: Mask) -> Mask {
    let lineless = withoutLines(mask)
    let (parts, numbers) = partsOf(grown(lineless.mask))
    let numbersOfGroup = group(parts, mask, lineless.isChanged ? 0.08 : 0.01)
    return Mask(height: mask.height, width: mask.width, at: numbers.indices.map {
        lineless.mask.at[$0] && numbersOfGroup.contains(numbers[$0])
    })
}

/// The parts whose pixels touch, be it at a corner, and each pixel's number, from 1.
private func partsOf(_ mask: Mask) -> ([Part], [Int]) {
    var parts: [Part] = []
    var numbers = [Int](repeating: 0, count: mask.at.count)
    for start in mask.at.indices where mask.at[start] && numbers[start] == 0 {
        var part = Part(number: parts.count + 1)
        numbers[start] = part.number
        var waiting = [start]
        while let place = waiting.popLast() {
            let y = place / mask.width
            let x = place % mask.width
            part.area += 1
            part.top = min(part.top, y)
            part.left = min(part.left, x)
            part.bottom = max(part.bottom, y + 1)
            part.right = max(part.right, x + 1)
            for row in max(0, y - 1)...min(mask.height - 1, y + 1) {
                for column in max(0, x - 1)...min(mask.width - 1, x + 1) {
                    let next = row * mask.width + column
                    if mask.at[next] && numbers[next] == 0 {
                        numbers[next] = part.number
                        waiting.append(next)
                    }
                }
            }
        }
        parts.append(part)
    }
    return (parts, numbers)
}

/// The numbers of the part that is the digit, most likely, and of those that belong to it.
private func group(_ parts: [Part], _ mask: Mask, _ speck: Double) -> Set<Int> {
    let height = mask.height
    let width = mask.width
    let frames = Set(parts.filter { isFrame($0, parts) }.map(\.number))
    func isInside(_ part: Part) -> Bool {
        part.top > 1 && part.left > 1 && part.bottom < height - 1 && part.right < width - 1
    }
    func weight(_ part: Part) -> Double {
        if Double(max(part.height, part.width)) < 0.12 * Double(min(height, width)) { return 0 }
        let off = hypot(
            Double(part.top + part.bottom) / Double(height) - 1, Double(part.left + part.right) / Double(width) - 1)
        let spans = Double(part.height) > 0.95 * Double(height) || Double(part.width) > 0.95 * Double(width)
        let place = (isInside(part) ? 1 : 0.3) * (spans ? 0.1 : 1.0) * (frames.contains(part.number) ? 0.02 : 1.0)
        return Double(part.area) * exp(-2 * off * off) * place
    }
    var found: Part?
    var most = 0.0
    for part in parts where weight(part) > most {
        found = part
        most = weight(part)
    }
    guard let main = found else { return [] }
    let least = max(16, speck * Double(main.area))
    let big = parts.filter {
        Double($0.area) >= least && (isInside($0) || !isInside(main)) && !frames.contains($0.number)
    }
    var group = [main]
    while true {
        let top = group.map(\.top).min()!, left = group.map(\.left).min()!
        let bottom = group.map(\.bottom).max()!, right = group.map(\.right).max()!
        let reach = 0.2 * Double(max(bottom - top, right - left))
        let above = Double(top) - reach, below = Double(bottom) + reach
        let before = Double(left) - reach, behind = Double(right) + reach
        let known = Set(group.map(\.number))
        let more = big.filter { part -> Bool in
            if known.contains(part.number) { return false }
            if Double(part.top) > below || Double(part.bottom) < above { return false }
            return Double(part.left) <= behind && Double(part.right) >= before
        }
        if more.isEmpty { return known }
        group += more
    }
}

/// Whether the part is hollow and has another one of some size within.
private func isFrame(_ part: Part, _ parts: [Part]) -> Bool {
    if Double(part.area) >= 0.45 * Double(part.height * part.width) { return false }
    return parts.contains { other -> Bool in
        if other.top <= part.top || other.bottom >= part.bottom { return false }
        if other.left <= part.left || other.right >= part.right { return false }
        return Double(other.height) >= 0.3 * Double(part.height) && Double(other.area) > 0.1 * Double(part.area)
    }
}

private func grown(_ mask: Mask) -> Mask {
    var out = Mask(height: mask.height, width: mask.width)
    for y in 0..<mask.height {
        for x in 0..<mask.width where mask[y, x] {
            for row in max(0, y - 1)...min(mask.height - 1, y + 1) {
                for column in max(0, x - 1)...min(mask.width - 1, x + 1) { out[row, column] = true }
            }
        }
    }
    return out
}

// Ruled lines and frames: thin, straight, nearly level or upright.

private struct Lines {
    var slope = 0.0
    var rows: [Int] = []
}

/// The mask without ruled lines and frames, and whether there were any.
private func withoutLines(_ mask: Mask) -> (mask: Mask, isChanged: Bool) {
    var found = mask
    var isChanged = false
    var level = spanning(found), upright = spanning(found.turned())
    if !level.rows.isEmpty || !upright.rows.isEmpty {
        found = found.without(thinAlong(found, level)).without(thinAlong(found.turned(), upright).turned())
        isChanged = true
    }
    level = framing(found)
    upright = framing(found.turned())
    if !level.rows.isEmpty && !upright.rows.isEmpty {
        found = found.without(thinAlong(found, level)).without(thinAlong(found.turned(), upright).turned())
        isChanged = true
    }
    return (found, isChanged)
}

/// The slope along which ink gathers most in few lines, and in how many columns each line of it meets ink's edge.
private func gathered(_ mask: Mask) -> (slope: Double, counts: [Int]) {
    let margin = Int((Double(mask.width) * 0.05).rounded(.up)) + 1
    let edge = mask.at.indices.filter { mask.at[$0] && ($0 < mask.width || !mask.at[$0 - mask.width]) }
    var slopeOfMost = 0.0
    var countsOfMost = [Int](repeating: 0, count: mask.height + 2 * margin)
    var most = -1.0
    for number in 0...40 {
        let slope = number == 40 ? 0.1 : Double(number) * 0.005 + -0.1
        var single = [Int](repeating: 0, count: mask.height + 2 * margin)
        for place in edge {
            let away = Double(place % mask.width) - Double(mask.width) / 2
            single[nearest(Double(place / mask.width) - slope * away) + margin] += 1
        }
        var counts = single
        for row in single.indices {
            if row > 0 { counts[row] += single[row - 1] }
            if row + 1 < single.count { counts[row] += single[row + 1] }
        }
        let sum = counts.reduce(0.0) { sum, count -> Double in
            let square = Double(count * count)
            return sum + square * square
        }
        if sum > most {
            slopeOfMost = slope
            countsOfMost = counts
            most = sum
        }
    }
    return (slopeOfMost, Array(countsOfMost[margin..<(margin + mask.height)]))
}

private func spanning(_ mask: Mask) -> Lines {
    let end = max(1, nearest(0.03 * Double(mask.width)))
    let first = (0..<end).contains { mask.inColumn($0) }
    let last = ((mask.width - end)..<mask.width).contains { mask.inColumn($0) }
    if !first || !last { return Lines() }
    let (slope, counts) = gathered(mask)
    return Lines(slope: slope, rows: counts.indices.filter { Double(counts[$0]) > 0.7 * Double(mask.width) })
}

private func framing(_ mask: Mask) -> Lines {
    guard let box = boxOf(mask) else { return Lines() }
    let height = box.bottom - box.top
    let width = box.right - box.left
    if Double(min(height, width)) < 0.3 * Double(max(height, width)) { return Lines() }
    let side = (height + 3) / 4
    for first in [box.top, box.bottom - side] {
        let filled = (box.left..<box.right).filter { x in (first..<(first + side)).contains { mask[$0, x] } }
        if Double(filled.count) / Double(width) < 0.75 { return Lines() }
    }
    let (slope, counts) = gathered(mask)
    let rows = counts.indices.filter { Double(counts[$0]) > 0.75 * Double(width) }
    guard let first = rows.first, let last = rows.last, Double(last - first) > 0.45 * Double(height) else { return Lines() }
    return Lines(slope: slope, rows: Array(rows))
}

/// The pixels on those lines whose ink is thin across the line; where a stroke crosses it, the stroke stays.
private func thinAlong(_ mask: Mask, _ lines: Lines) -> Mask {
    var thin = Mask(height: mask.height, width: mask.width)
    if lines.rows.isEmpty { return thin }
    var near = [Bool](repeating: false, count: mask.height)
    for row in lines.rows { for away in -2...2 { near[min(max(row + away, 0), mask.height - 1)] = true } }
    let lengths = lengthsOf(mask)
    for x in 0..<mask.width {
        let shift = nearest(lines.slope * (Double(x) - Double(mask.width) / 2))
        for y in 0..<mask.height where mask[y, x] && (0..<mask.height).contains(y - shift) {
            thin[y, x] = near[y - shift]
        }
    }
    let on = thin.at.indices.filter { thin.at[$0] }.map { Float(lengths[$0]) }
    let thickness = on.isEmpty ? 0 : percentile(on, 50)
    if thickness > max(2, 0.045 * Double(max(mask.height, mask.width))) {
        return Mask(height: mask.height, width: mask.width)
    }
    for place in thin.at.indices where thin.at[place] {
        thin.at[place] = Double(lengths[place]) <= 1.5 * thickness + 1
    }
    return thin
}

/// For each pixel of the mask, how long the run of pixels in its column is.
private func lengthsOf(_ mask: Mask) -> [Int] {
    var lengths = [Int](repeating: 0, count: mask.at.count)
    for x in 0..<mask.width {
        var y = 0
        while y < mask.height {
            let start = y
            while y < mask.height && mask[y, x] { y += 1 }
            for row in start..<y { lengths[row * mask.width + x] = y - start }
            y += 1
        }
    }
    return lengths
}
