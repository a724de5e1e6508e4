// As much of LiteRT's interpreter as docs/howto/mobile.md uses. It runs no model: it keeps what it was given.
package org.tensorflow.lite

import java.io.File

class Interpreter(@Suppress("UNUSED_PARAMETER") model: File) : AutoCloseable {
    fun resizeInput(number: Int, shape: IntArray) { resized = Pair(number, shape.toList()) }
    fun runSignature(inputs: Map<String, Any>, outputs: Map<String, Any>, signature: String) {
        given = inputs
        (outputs.getValue("probabilities") as Array<*>).forEach { (it as FloatArray)[it.size - 1] = 1f }
        check(signature == "serving_default")
    }
    override fun close() {}

    companion object {
        var resized: Pair<Int, List<Int>>? = null
        var given: Map<String, Any> = emptyMap()
    }
}
