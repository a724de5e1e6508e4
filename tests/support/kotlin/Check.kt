// Runs the code of docs/howto/mobile.md on what a test gives it.

import android.graphics.Bitmap
import org.tensorflow.lite.Interpreter
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File

fun main(arguments: Array<String>) {
    val (what, model, given, out) = arguments
    DataOutputStream(File(out).outputStream().buffered()).use {
        if (what == "digits") digits(File(model), given, it) else texts(File(model), given, it)
    }
}

/** Images: height, width and a byte for each grey level. Answers: 784 numbers each, or a 0 for none. */
private fun digits(model: File, given: String, out: DataOutputStream) {
    DataInputStream(File(given).inputStream().buffered()).use { images ->
        repeat(images.readInt()) {
            val height = images.readInt()
            val width = images.readInt()
            val colours = IntArray(height * width) { images.readUnsignedByte() * 0x10101 }
            val label = readDigit(model, grey(Bitmap(width, height, colours)))
            check(label == null || label == "9") // the interpreter of the test always sees the last one
            val image = Interpreter.given["image"] as? Array<*>
            val pixels = if (label == null) emptyList() else (image!![0] as Array<*>).flatMap { row ->
                (row as Array<*>).map { (it as FloatArray)[0] }
            }
            out.writeInt(pixels.size)
            pixels.forEach(out::writeFloat)
        }
    }
}

/** Texts, parted by a 0. Answers: the ids of each, after their number. */
private fun texts(model: File, given: String, out: DataOutputStream) {
    for (text in File(given).readText().split('\u0000')) {
        judge(model, text)
        val ids = (Interpreter.given.getValue("ids") as Array<*>)[0] as IntArray
        check(Interpreter.resized == Pair(0, listOf(1, ids.size)))
        out.writeInt(ids.size)
        ids.forEach(out::writeInt)
    }
}
