// A photo or a drawing of one digit, as the 28 x 28 numbers that the digit models take. The steps are those of
// millrace/artifacts (images, background, ink, ruled, components), and a test compares the two. It needs no library.

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.exp
import kotlin.math.floor
import kotlin.math.hypot
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/** Numbers row by row. */
class Plane(val height: Int, val width: Int, val at: FloatArray = FloatArray(height * width)) {
    operator fun get(y: Int, x: Int) = at[y * width + x]
    operator fun set(y: Int, x: Int, value: Float) { at[y * width + x] = value }
    val longest get() = max(height, width)
    fun map(change: (Float) -> Float) = Plane(height, width, FloatArray(at.size) { change(at[it]) })
    fun turned() = Plane(width, height).also { for (y in 0 until height) for (x in 0 until width) it[x, y] = this[y, x] }
    fun highest() = at.max()
}

/** Yes and no, row by row. */
class Mask(val height: Int, val width: Int, val at: BooleanArray = BooleanArray(height * width)) {
    operator fun get(y: Int, x: Int) = at[y * width + x]
    operator fun set(y: Int, x: Int, value: Boolean) { at[y * width + x] = value }
    fun turned() = Mask(width, height).also { for (y in 0 until height) for (x in 0 until width) it[x, y] = this[y, x] }
    fun without(other: Mask) = Mask(height, width, BooleanArray(at.size) { at[it] && !other.at[it] })
    fun inRow(y: Int) = (0 until width).any { this[y, it] }
    fun inColumn(x: Int) = (0 until height).any { this[it, x] }
}

/** The first row and column of a box, and those after its last. */
class Box(val top: Int, val left: Int, val bottom: Int, val right: Int)

/**
 * 784 numbers, row by row, from 0 (paper) to 255 (ink), of an upright image in grey levels from 0 (black) to 255
 * (white), of any size and polarity; null where nothing on it stands out from the paper.
 */
fun digitPixels(image: Plane): FloatArray? {
    val factor = image.longest / 384
    val grey = if (factor > 1) means(image, factor, isWhole = true) else image
    val ink = lightOnDark(grey)
    if (isInForm(ink)) return ink.at
    val digit = ofTheDigit(if (isUneven(grey, ink)) flatInk(grey) else withoutNoise(ink))
    return if (digit.highest() > 0) boxed(digit) else null
}

private fun lightOnDark(grey: Plane): Plane {
    val paper = percentile(border(grey), 50.0).toFloat()
    val lighter = grey.map { max(it - paper, 0f) }
    val darker = grey.map { max(paper - it, 0f) }
    return if (squares(lighter) > squares(darker)) lighter else darker
}

private fun squares(plane: Plane) = plane.at.sumOf { it.toDouble() * it }

private fun isUneven(grey: Plane, ink: Plane): Boolean {
    val edge = border(grey)
    return percentile(edge, 90.0) - percentile(edge, 10.0) > 0.2 * ink.highest()
}

private fun withoutNoise(ink: Plane): Plane {
    val noise = min(percentile(border(ink), 95.0), 0.3 * ink.highest()).toFloat()
    return ink.map { max(it - noise, 0f) }
}

private fun border(plane: Plane): FloatArray {
    val rows = listOf(0, plane.height - 1).flatMap { y -> (0 until plane.width).map { plane[y, it] } }
    val columns = listOf(0, plane.width - 1).flatMap { x -> (0 until plane.height).map { plane[it, x] } }
    return (rows + columns).toFloatArray()
}

private fun percentile(values: FloatArray, percent: Double): Double {
    val ordered = values.sortedArray()
    val place = percent / 100 * (ordered.size - 1)
    val below = floor(place).toInt()
    val above = min(below + 1, ordered.size - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
}

/** The means of squares of pixels, whole ones as Pillow rounds them; squares at the far edges may have fewer pixels. */
private fun means(plane: Plane, factor: Int, isWhole: Boolean): Plane {
    val small = Plane((plane.height + factor - 1) / factor, (plane.width + factor - 1) / factor)
    for (y in 0 until small.height) for (x in 0 until small.width) {
        val bottom = min((y + 1) * factor, plane.height)
        val right = min((x + 1) * factor, plane.width)
        val count = (bottom - y * factor) * (right - x * factor)
        var sum = 0.0
        for (row in y * factor until bottom) for (column in x * factor until right) sum += plane[row, column]
        val whole = ((sum.toLong() + count / 2) * ((1L shl 24) / count)) shr 24
        small[y, x] = if (isWhole) whole.toFloat() else (sum / count).toFloat()
    }
    return small
}

// The form of MNIST: at most 20 x 20, the centre of mass in the middle of 28 x 28.

private fun isInForm(ink: Plane): Boolean {
    if (ink.height != 28 || ink.width != 28 || ink.highest() <= 0) return false
    val box = inkBox(ink, 0f)
    val (row, column) = centre(ink)
    return max(box.bottom - box.top, box.right - box.left) in 19..20 && max(abs(row - 14), abs(column - 14)) <= 0.55
}

private fun boxed(ink: Plane): FloatArray {
    val box = inkBox(ink, 0.2f * ink.highest())
    val crop = Plane(box.bottom - box.top, box.right - box.left)
    for (y in 0 until crop.height) for (x in 0 until crop.width) crop[y, x] = ink[box.top + y, box.left + x]
    val scale = 20.0 / crop.longest
    val small = resized(crop, max(1, round(crop.height * scale).toInt()), max(1, round(crop.width * scale).toInt()))
    val (row, column) = centre(small)
    val top = round(14 - row).toInt().coerceIn(0, 28 - small.height)
    val left = round(14 - column).toInt().coerceIn(0, 28 - small.width)
    val stretch = 255 / small.highest()
    val out = Plane(28, 28)
    for (y in 0 until small.height) for (x in 0 until small.width) out[top + y, left + x] = small[y, x] * stretch
    return out.at
}

private fun inkBox(ink: Plane, threshold: Float): Box {
    val isInk = Mask(ink.height, ink.width, BooleanArray(ink.at.size) { ink.at[it] > threshold })
    return boxOf(isInk)!!
}

private fun boxOf(mask: Mask): Box? {
    val rows = (0 until mask.height).filter(mask::inRow)
    val columns = (0 until mask.width).filter(mask::inColumn)
    return if (rows.isEmpty()) null else Box(rows.first(), columns.first(), rows.last() + 1, columns.last() + 1)
}

private fun centre(ink: Plane): Pair<Double, Double> {
    var sum = 0.0
    var row = 0.0
    var column = 0.0
    for (y in 0 until ink.height) for (x in 0 until ink.width) {
        sum += ink[y, x]
        row += y * ink[y, x].toDouble()
        column += x * ink[y, x].toDouble()
    }
    return Pair(row / sum, column / sum)
}

/** Each new pixel is the mean of those that it covers; of a larger image, their mixture (bilinear). */
private fun resized(plane: Plane, height: Int, width: Int): Plane {
    val isSmaller = max(height, width) < plane.longest
    return resizedDown(resizedDown(plane.turned(), width, isSmaller).turned(), height, isSmaller)
}

private fun resizedDown(plane: Plane, height: Int, isSmaller: Boolean): Plane {
    val step = plane.height.toDouble() / height
    val unit = max(step, 1.0)
    val reach = (if (isSmaller) 0.5 else 1.0) * unit
    val out = Plane(height, plane.width)
    for (y in 0 until height) {
        val middle = (y + 0.5) * step
        val first = max(0, floor(middle - reach + 0.5).toInt())
        val after = min(plane.height, floor(middle + reach + 0.5).toInt())
        val weights = (first until after).map {
            val away = (it - middle + 0.5) / unit
            if (isSmaller) (if (away > -0.5 && away <= 0.5) 1.0 else 0.0) else max(1 - abs(away), 0.0)
        }
        val sum = weights.sum()
        for (x in 0 until plane.width) {
            out[y, x] = (first until after).sumOf { plane[it, x] * weights[it - first] / sum }.toFloat()
        }
    }
    return out
}

// Uneven light: ink is how much of the light of the paper around it is missing.

private fun flatInk(grey: Plane): Plane {
    val light = if (inkIsDark(grey)) grey else grey.map { 255 - it }
    val paper = closed(smooth(light), (light.longest / 5) or 1)
    val dimmest = max(80f, 0.3f * paper.highest())
    val ink = Plane(light.height, light.width, FloatArray(light.at.size) {
        255 * (1 - light.at[it] / max(paper.at[it], dimmest)).coerceIn(0f, 1f)
    })
    val middle = percentile(ink.at, 50.0).toFloat()
    return ink.map { max(it - middle, 0f) }
}

/** Whether what is narrow is darker than what is around it rather than lighter, on all scales together. */
private fun inkIsDark(grey: Plane): Boolean {
    val scale = min(1.0, 128.0 / grey.longest)
    val height = max(1, round(grey.height * scale).toInt())
    val width = max(1, round(grey.width * scale).toInt())
    val small = resized(grey, height, width).map { ln(it + 8) }
    var verdict = 0.0
    for (side in listOf(5, 9, 17, 33)) {
        val dark = filled(small, side)
        val light = filled(small.map { -it }, side)
        verdict += (dark - light) / max(dark + light, 1e-9)
    }
    return verdict > 0
}

private fun filled(plane: Plane, side: Int): Double {
    val whole = closed(plane, side)
    return plane.at.indices.sumOf { val more = (whole.at[it] - plane.at[it]).toDouble(); more * more }
}

private fun smooth(plane: Plane): Plane {
    val out = Plane(plane.height, plane.width)
    for (y in 0 until plane.height) for (x in 0 until plane.width) {
        var sum = 0f
        for (down in -1..1) for (across in -1..1) {
            sum += plane[(y + down).coerceIn(0, plane.height - 1), (x + across).coerceIn(0, plane.width - 1)]
        }
        out[y, x] = sum / 9
    }
    return out
}

/** Dark parts filled up that no square of that side fits into; light that falls off at the edge goes on falling. */
private fun closed(plane: Plane, side: Int): Plane {
    val around = side / 2 * 2
    val padded = continued(continued(plane, around).turned(), around).turned()
    val largest = largest(largest(padded, side).turned(), side).turned().map { -it }
    return largest(largest(largest, side).turned(), side).turned().map { -it }
}

/** Rows before the first and behind the last: the plane turned about its edge, again and again. */
private fun continued(plane: Plane, around: Int): Plane {
    val last = plane.height - 1
    val out = Plane(plane.height + 2 * around, plane.width)
    for (row in 0 until out.height) for (x in 0 until plane.width) {
        if (last == 0) { out[row, x] = plane[0, x]; continue }
        val turns = Math.floorDiv(row - around, last)
        val rest = Math.floorMod(row - around, last)
        val rise = plane[last, x] - plane[0, x]
        out[row, x] = if (turns % 2 == 0) plane[rest, x] + turns * rise
            else 2 * plane[last, x] - plane[last - rest, x] + (turns - 1) * rise
    }
    return out
}

/** The largest of each `side` values that follow one another in a column. */
private fun largest(plane: Plane, side: Int): Plane {
    var found = plane
    var covered = 1
    while (covered < side) {
        val step = min(covered, side - covered)
        val before = found
        val size = (before.height - step) * before.width
        val ahead = step * before.width
        found = Plane(before.height - step, before.width, FloatArray(size) { max(before.at[it], before.at[it + ahead]) })
        covered += step
    }
    return found
}

// Which ink is the digit: not ruled lines, frames, specks and neighbours.

private fun ofTheDigit(ink: Plane): Plane {
    if (!hasEdges(ink)) return Plane(ink.height, ink.width)
    val factor = (ink.longest + 255) / 256
    var near = chosen(inkMask(filledMeans(ink, factor)))
    repeat(3) { near = grown(near) }
    val digit = Plane(ink.height, ink.width)
    var elsewhere = 0f
    for (y in 0 until ink.height) for (x in 0 until ink.width) {
        if (near[y / factor, x / factor]) digit[y, x] = ink[y, x] else elsewhere = max(elsewhere, ink[y, x])
    }
    return if (elsewhere < 0.15f * digit.highest()) ink else digit
}

/** Whether any of the ink begins within a few pixels, as strokes do; light that falls off has no edge anywhere. */
private fun hasEdges(ink: Plane): Boolean {
    val small = filledMeans(ink, max(1, (ink.longest + 47) / 48))
    if (min(small.height, small.width) <= 2) return true // too small to tell
    var steepest = 0f
    for (y in 0 until small.height) for (x in 0 until small.width) {
        if (y >= 2) steepest = max(steepest, abs(small[y, x] - small[y - 2, x]))
        if (x >= 2) steepest = max(steepest, abs(small[y, x] - small[y, x - 2]))
    }
    return steepest > 0.5f * small.highest()
}

/** As `means`, with the last row and column repeated where squares reach beyond them. */
private fun filledMeans(plane: Plane, factor: Int): Plane {
    if (factor == 1) return plane
    val whole = Plane((plane.height + factor - 1) / factor * factor, (plane.width + factor - 1) / factor * factor)
    for (y in 0 until whole.height) for (x in 0 until whole.width) {
        whole[y, x] = plane[min(y, plane.height - 1), min(x, plane.width - 1)]
    }
    return means(whole, factor, isWhole = false)
}

private fun inkMask(ink: Plane): Mask {
    val middle = percentile(ink.at, 50.0).toFloat()
    val noise = 1.4826 * percentile(FloatArray(ink.at.size) { abs(ink.at[it] - middle) }, 50.0)
    val threshold = max(max(otsu(ink), 5 * noise), 30.0)
    return Mask(ink.height, ink.width, BooleanArray(ink.at.size) { ink.at[it] > threshold })
}

/** The grey level that parts paper and ink best (Otsu's method). */
private fun otsu(ink: Plane): Double {
    val counts = LongArray(256)
    for (value in ink.at) counts[value.coerceIn(0f, 255f).toInt()]++
    val total = ink.at.size.toDouble()
    val all = counts.withIndex().sumOf { (level, count) -> level.toDouble() * count }
    var below = 0.0
    var sum = 0.0
    var best = 0
    var most = 0.0
    for (level in 0..255) {
        below += counts[level]
        sum += level.toDouble() * counts[level]
        val above = total - below
        if (below == 0.0 || above == 0.0) continue
        val apart = sum / below - (all - sum) / above
        if (below * above * apart * apart > most) { best = level; most = below * above * apart * apart }
    }
    return best.toDouble()
}

private class Part(val number: Int) {
    var area = 0
    var top = Int.MAX_VALUE
    var left = Int.MAX_VALUE
    var bottom = 0
    var right = 0
    val height get() = bottom - top
    val width get() = right - left
}

private fun chosen(mask: Mask): Mask {
    val lineless = withoutLines(mask)
    val numbers = IntArray(mask.at.size)
    val parts = parts(grown(lineless), numbers)
    val group = group(parts, mask, if (lineless === mask) 0.01 else 0.08).map { it.number }.toSet()
    return Mask(mask.height, mask.width, BooleanArray(numbers.size) { lineless.at[it] && numbers[it] in group })
}

/** The parts whose pixels touch, be it at a corner; `numbers` gets each pixel's, from 1. */
private fun parts(mask: Mask, numbers: IntArray): List<Part> {
    val parts = mutableListOf<Part>()
    val waiting = ArrayDeque<Int>()
    for (start in mask.at.indices) {
        if (!mask.at[start] || numbers[start] != 0) continue
        val part = Part(parts.size + 1).also(parts::add)
        numbers[start] = part.number
        waiting.add(start)
        while (waiting.isNotEmpty()) {
            val place = waiting.removeLast()
            val y = place / mask.width
            val x = place % mask.width
            part.area++
            part.top = min(part.top, y)
            part.left = min(part.left, x)
            part.bottom = max(part.bottom, y + 1)
            part.right = max(part.right, x + 1)
            for (row in max(0, y - 1)..min(mask.height - 1, y + 1)) for (column in max(0, x - 1)..min(mask.width - 1, x + 1)) {
                val next = row * mask.width + column
                if (mask.at[next] && numbers[next] == 0) { numbers[next] = part.number; waiting.add(next) }
            }
        }
    }
    return parts
}

/** The part that is the digit, most likely, and those that belong to it. */
private fun group(parts: List<Part>, mask: Mask, speck: Double): Set<Part> {
    val height = mask.height
    val width = mask.width
    val frames = parts.filter { isFrame(it, parts) }.toSet()
    fun isInside(part: Part) = part.top > 1 && part.left > 1 && part.bottom < height - 1 && part.right < width - 1
    fun weight(part: Part): Double {
        if (max(part.height, part.width) < 0.12 * min(height, width)) return 0.0
        val off = hypot((part.top + part.bottom).toDouble() / height - 1, (part.left + part.right).toDouble() / width - 1)
        val spans = part.height > 0.95 * height || part.width > 0.95 * width
        return part.area * exp(-2 * off * off) * (if (isInside(part)) 1.0 else 0.3) * (if (spans) 0.1 else 1.0) *
            (if (part in frames) 0.02 else 1.0)
    }
    val main = parts.maxByOrNull(::weight) ?: return emptySet()
    if (weight(main) == 0.0) return emptySet()
    val least = max(16.0, speck * main.area)
    val big = parts.filter { it.area >= least && (isInside(it) || !isInside(main)) && it !in frames }
    var group = setOf(main)
    while (true) {
        val box = Box(group.minOf { it.top }, group.minOf { it.left }, group.maxOf { it.bottom }, group.maxOf { it.right })
        val reach = 0.2 * max(box.bottom - box.top, box.right - box.left)
        val more = group + big.filter {
            it.top <= box.bottom + reach && it.bottom >= box.top - reach && it.left <= box.right + reach && it.right >= box.left - reach
        }
        if (more.size == group.size) return group
        group = more
    }
}

/** Whether the part is hollow and has another one of some size within. */
private fun isFrame(part: Part, parts: List<Part>) = part.area < 0.45 * part.height * part.width && parts.any {
    it.top > part.top && it.bottom < part.bottom && it.left > part.left && it.right < part.right &&
        it.height >= 0.3 * part.height && it.area > 0.1 * part.area
}

private fun grown(mask: Mask): Mask {
    val out = Mask(mask.height, mask.width)
    for (y in 0 until mask.height) for (x in 0 until mask.width) if (mask[y, x]) {
        for (row in max(0, y - 1)..min(mask.height - 1, y + 1)) for (column in max(0, x - 1)..min(mask.width - 1, x + 1)) {
            out[row, column] = true
        }
    }
    return out
}

// Ruled lines and frames: thin, straight, nearly level or upright.

private class Lines(val slope: Double, val rows: List<Int>)

private val NO_LINES = Lines(0.0, emptyList())

private fun withoutLines(mask: Mask): Mask {
    var found = mask
    var level = spanning(found)
    var upright = spanning(found.turned())
    if (level.rows.isNotEmpty() || upright.rows.isNotEmpty()) {
        found = found.without(thinAlong(found, level)).without(thinAlong(found.turned(), upright).turned())
    }
    level = framing(found)
    upright = framing(found.turned())
    if (level.rows.isNotEmpty() && upright.rows.isNotEmpty()) {
        found = found.without(thinAlong(found, level)).without(thinAlong(found.turned(), upright).turned())
    }
    return found
}

/** The slope along which ink gathers most in few lines, and in how many columns each line of it meets ink's edge. */
private fun gathered(mask: Mask): Pair<Double, LongArray> {
    val margin = ceil(mask.width * 0.05).toInt() + 1
    val edge = mask.at.indices.filter { mask.at[it] && (it < mask.width || !mask.at[it - mask.width]) }
    var best = Pair(0.0, LongArray(mask.height + 2 * margin))
    var most = -1.0
    for (number in 0..40) {
        val slope = if (number == 40) 0.1 else number * 0.005 + -0.1
        val single = LongArray(mask.height + 2 * margin)
        for (place in edge) {
            val row = place / mask.width
            val column = place % mask.width
            single[round(row - slope * (column - mask.width / 2.0)).toInt() + margin]++
        }
        val counts = LongArray(single.size) { single[it] + single.getOrElse(it - 1) { 0 } + single.getOrElse(it + 1) { 0 } }
        val sum = counts.sumOf { it.toDouble() * it * it * it }
        if (sum > most) { best = Pair(slope, counts); most = sum }
    }
    return Pair(best.first, best.second.copyOfRange(margin, margin + mask.height))
}

private fun spanning(mask: Mask): Lines {
    val end = max(1, round(0.03 * mask.width).toInt())
    if ((0 until end).none(mask::inColumn) || (mask.width - end until mask.width).none(mask::inColumn)) return NO_LINES
    val (slope, counts) = gathered(mask)
    return Lines(slope, counts.indices.filter { counts[it] > 0.7 * mask.width })
}

private fun framing(mask: Mask): Lines {
    val box = boxOf(mask) ?: return NO_LINES
    val height = box.bottom - box.top
    val width = box.right - box.left
    if (min(height, width) < 0.3 * max(height, width)) return NO_LINES
    val side = (height + 3) / 4
    for (first in listOf(box.top, box.bottom - side)) {
        val filled = (box.left until box.right).count { x -> (first until first + side).any { mask[it, x] } }
        if (filled.toDouble() / width < 0.75) return NO_LINES
    }
    val (slope, counts) = gathered(mask)
    val rows = counts.indices.filter { counts[it] > 0.75 * width }
    return if (rows.isNotEmpty() && rows.last() - rows.first() > 0.45 * height) Lines(slope, rows) else NO_LINES
}

/** The pixels on those lines whose ink is thin across the line; where a stroke crosses it, the stroke stays. */
private fun thinAlong(mask: Mask, lines: Lines): Mask {
    val thin = Mask(mask.height, mask.width)
    if (lines.rows.isEmpty()) return thin
    val near = BooleanArray(mask.height)
    for (row in lines.rows) for (away in -2..2) near[(row + away).coerceIn(0, mask.height - 1)] = true
    val lengths = lengths(mask)
    for (x in 0 until mask.width) {
        val shift = round(lines.slope * (x - mask.width / 2.0)).toInt()
        for (y in 0 until mask.height) {
            thin[y, x] = mask[y, x] && y - shift in 0 until mask.height && near[y - shift]
        }
    }
    val on = thin.at.indices.filter { thin.at[it] }.map { lengths[it].toFloat() }.toFloatArray()
    val thickness = if (on.isEmpty()) 0.0 else percentile(on, 50.0)
    if (thickness > max(2.0, 0.045 * max(mask.height, mask.width))) return Mask(mask.height, mask.width)
    for (place in thin.at.indices) thin.at[place] = thin.at[place] && lengths[place] <= 1.5 * thickness + 1
    return thin
}

/** For each pixel of the mask, how long the run of pixels in its column is. */
private fun lengths(mask: Mask): IntArray {
    val lengths = IntArray(mask.at.size)
    for (x in 0 until mask.width) {
        var y = 0
        while (y < mask.height) {
            val start = y
            while (y < mask.height && mask[y, x]) y++
            for (row in start until y) lengths[row * mask.width + x] = y - start
            y++
        }
    }
    return lengths
}
