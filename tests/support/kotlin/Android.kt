// As much of Android's Bitmap as docs/howto/mobile.md uses.
package android.graphics

class Bitmap(val width: Int, val height: Int, private val colours: IntArray) {
    fun getPixels(out: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        for (row in 0 until height) for (column in 0 until width) {
            out[offset + row * stride + column] = colours[(y + row) * this.width + x + column]
        }
    }
}
