defmodule Caravan.Doctor.Listener do
  # Effect. Finds the process that listens on a TCP port of this host, in /proc (proc(5)). Only Linux has /proc with these
  # files. Only root sees the open files of other users' processes.
  @moduledoc false

  # The maximum number of bytes that are read of a table. The sockets that listen are in the first lines.
  @max_size 1_048_576

  @doc ~S|Returns the process as a text, such as `beam.smp (pid 4711)`, or `nil` if it cannot be found.|
  @spec find(:inet.port_number()) :: String.t() | nil
  def find(port) do
    inodes = Enum.flat_map(["/proc/net/tcp", "/proc/net/tcp6"], &inodes(&1, port))
    links = Enum.map(inodes, &~c"socket:[#{&1}]")
    if links != [], do: Enum.find_value(pids(), &process(&1, links))
  end

  # A line has the local address and port, the remote one, the state, and at its tenth place the inode. 0A is LISTEN.
  defp inodes(table, port) do
    suffix = ":" <> (port |> Integer.to_string(16) |> String.pad_leading(4, "0"))

    for line <- String.split(read(table), "\n"),
        [_, local, _, "0A", _, _, _, _, _, inode | _] <- [String.split(line)],
        String.ends_with?(local, suffix),
        do: inode
  end

  defp read(path) do
    with {:ok, file} <- :file.open(path, [:read, :raw, :binary]) do
      bytes = :file.read(file, @max_size)
      :ok = :file.close(file)
      with {:ok, text} <- bytes, do: text, else: (_ -> "")
    else
      {:error, _reason} -> ""
    end
  end

  defp pids do
    with {:ok, names} <- File.ls("/proc"),
         do: Enum.filter(names, &(&1 =~ ~r/\A\d+\z/)),
         else: (_ -> [])
  end

  defp process(pid, links) do
    dir = "/proc/#{pid}/fd"

    with {:ok, files} <- File.ls(dir),
         true <- Enum.any?(files, &(link(Path.join(dir, &1)) in links)) do
      "#{name(String.trim(read("/proc/#{pid}/comm")))} (pid #{pid})"
    else
      _ -> nil
    end
  end

  # A process chooses its name, and may choose one that the terminal would obey.
  defp name(name), do: if(name != "" and String.printable?(name), do: name, else: "a process")

  defp link(path) do
    with {:ok, target} <- :file.read_link(path), do: target, else: (_ -> nil)
  end
end
