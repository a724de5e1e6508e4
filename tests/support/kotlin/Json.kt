// As much of org.json as docs/howto/mobile.md uses, for objects that hold lists of flat ones.
package org.json

class JSONObject(private val text: String) {
    private fun value(name: String) = Regex("\"$name\":\\s*\"?([^\",\n}]*)").find(text)!!.groupValues[1]
    fun getString(name: String) = value(name)
    fun getInt(name: String) = value(name).toInt()
    fun getJSONArray(name: String) = JSONArray(text.substringAfter("\"$name\":").substringBefore("]"))
}

class JSONArray(text: String) {
    private val objects = Regex("\\{[^{}]*}").findAll(text).map { JSONObject(it.value) }.toList()
    fun length() = objects.size
    fun getJSONObject(place: Int) = objects[place]
}
